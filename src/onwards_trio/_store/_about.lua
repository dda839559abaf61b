-- Every script begins with this. Times are microseconds; all numbers stay below 2^53, where doubles are exact.
-- KEYS[1]: about the store, as `LeaseStore` has it: all numbers.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function digits(number) return string.format('%.0f', number) end

local store = {}
local FIELDS = {
    'name', 'opens_at', 'permits_at', 'emptied_at', 'answered_at', 'away_at', 'settles_at', 'grace', 'lease'
}
for index, value in ipairs(redis.call('HMGET', KEYS[1], unpack(FIELDS))) do
    if value then store[FIELDS[index]] = tonumber(value) end
end

local function note(field, value)
    if store[field] == value then return end
    store[field] = value
    redis.call('HSET', KEYS[1], field, digits(value))
end
local function silence() return math.floor(store.grace * 3 / 4) end

local function notice_absence(alone)
    if not store.answered_at or store.grace == 0 then return end
    if now <= math.max(store.answered_at, store.away_at or 0) + silence() then return end
    if alone then
        note('answered_at', now)
        return
    end
    note('away_at', now)
    note('opens_at', now + store.grace)
    note('emptied_at', store.opens_at)
    note('settles_at', store.opens_at)
    if now - store.answered_at > math.floor((store.lease or 0) / 2) + silence() then
        note('settles_at', now + math.max(store.grace, store.lease or 0))
    end
end

local function meet(grace, lease, knew_another)
    note('grace', grace)
    if lease > 0 then note('lease', lease) end
    if not store.name then
        note('name', now)
        note('opens_at', now + grace)
        note('permits_at', now + grace)
    end
    if not store.answered_at then note('answered_at', now) end
    if knew_another then note('permits_at', math.max(store.permits_at, store.name + lease)) end
    redis.call('EXPIRE', KEYS[1], 86400)
end

local function opens_in() return math.max(0, store.opens_at - now) end
local function permits_in() return math.max(0, store.permits_at - now, (store.settles_at or 0) - now) end

-- A Beat. KEYS[2]: how long processes are taken for alive; KEYS[3]: when they had said what they hold. Gives those that
-- are no process any more.
local function hear(process, lease, grace, knew, heard, said)
    local is_known = store.name and knew == digits(store.name)
    local answered = is_known and math.min(tonumber(heard), now) or 0
    if store.answered_at and store.grace > 0 then note('answered_at', math.max(store.answered_at, answered)) end
    local others = redis.call('ZCARD', KEYS[2])
    if redis.call('ZSCORE', KEYS[2], process) then others = others - 1 end
    notice_absence(others == 0)
    meet(grace, lease, knew ~= '' and not is_known)

    local gone = {}
    if now >= (store.settles_at or 0) then gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', digits(now)) end
    if lease == 0 then gone[#gone + 1] = process end
    for _, name in ipairs(gone) do
        redis.call('ZREM', KEYS[2], name)
        redis.call('ZREM', KEYS[3], name)
    end
    if lease > 0 then
        local said_at = now
        if knew ~= '' then said_at = said == '1' and answered or 0 end
        redis.call('ZADD', KEYS[2], digits(now + lease), process)
        redis.call('ZADD', KEYS[3], digits(said_at), process)
        redis.call('EXPIRE', KEYS[2], 86400)
        redis.call('EXPIRE', KEYS[3], 86400)
    end
    if redis.call('ZCARD', KEYS[2]) == 0 then
        redis.call('HDEL', KEYS[1], 'answered_at')
        store.answered_at = nil
    end
    if store.away_at and redis.call('ZCOUNT', KEYS[3], '-inf', '(' .. digits(store.away_at)) == 0 then
        note('settles_at', store.opens_at)
    end
    return gone
end

