-- Every script begins with this. Times are microseconds; all numbers stay below 2^53, where doubles are exact.
-- KEYS[1]: about the store, as `LeaseStore` has it: `name`, `opens_at`, `permits_at`, `emptied_at`, `away_after`, `grace`.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function digits(number) return string.format('%.0f', number) end

local store = {}
local FIELDS = {'name', 'opens_at', 'permits_at', 'emptied_at', 'away_after', 'grace'}
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
    if not store.away_after or store.grace == 0 or now <= store.away_after then return end
    if not alone then
        note('opens_at', now + store.grace)
        note('emptied_at', store.opens_at)
        note('permits_at', math.max(store.permits_at, store.opens_at))
    end
    note('away_after', now + silence())
end

local function meet(grace, lease, knew_another)
    note('grace', grace)
    if not store.name then
        note('name', now)
        note('opens_at', now + grace)
        note('permits_at', now + grace)
    end
    if not store.away_after then note('away_after', now + silence()) end
    if knew_another then note('permits_at', math.max(store.permits_at, store.name + lease)) end
    redis.call('EXPIRE', KEYS[1], 86400)
end

-- A Beat. alone: whether no other process is known; `knew` and `heard` as it has them.
local function hear(alone, grace, lease, knew, heard)
    local is_known = store.name and knew == digits(store.name)
    if is_known and store.away_after then
        note('away_after', math.max(store.away_after, math.min(tonumber(heard), now) + silence()))
    end
    notice_absence(alone)
    meet(grace, lease, knew ~= '' and not is_known)
end

