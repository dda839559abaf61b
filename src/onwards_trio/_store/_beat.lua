-- Beat, as `LeaseStore._beat` has it.
-- KEYS: about the store; how long processes are taken for alive; since when they are there; their entries in the last
-- one; who is left out, until when; what load each process has told of, packed; the sum; who has which config.
local process, lease, grace, config = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local knew, heard, listed, loads_from = ARGV[5], ARGV[6], tonumber(ARGV[7]), 9 + 2 * ARGV[8]

local function forget_load(of)
    local told = redis.call('HGET', KEYS[6], of)
    if not told then return end
    for identity, count in pairs(cmsgpack.unpack(told)) do
        if redis.call('HINCRBY', KEYS[7], identity, -count) <= 0 then redis.call('HDEL', KEYS[7], identity) end
    end
    redis.call('HDEL', KEYS[6], of)
end

-- Who has which config. A thousand processes beat a thousand times a second, so none of them may look at all others:
-- KEYS[8] keeps two kinds of entries, each kind in the order in which they are told. `p CONFIG SINCE PROCESS`: those with
-- a config stand together, the oldest first. `c LEFT SINCE CONFIG`: LEFT is a million less the number of its processes,
-- SINCE the age of the oldest, so the commonest comes first. A config is a word, SINCE has 16 digits.
local function having(of) return '[p ' .. of .. ' ', '(p ' .. of .. '!' end

local function place(of)
    local from, to = having(of)
    local oldest = redis.call('ZRANGEBYLEX', KEYS[8], from, to, 'LIMIT', 0, 1)[1]
    if not oldest then return nil end
    local left = 1000000 - redis.call('ZLEXCOUNT', KEYS[8], from, to)
    return string.format('c %06d %s %s', left, oldest:match('^p %S* (%d+)'), of)
end

local function change(entry, command, ...)
    local its = entry:match('^p (%S*)')
    local before = place(its)
    redis.call(command, KEYS[8], ...)
    local after = place(its)
    if before then redis.call('ZREM', KEYS[8], before) end
    if after then redis.call('ZADD', KEYS[8], 0, after) end
end

local function forget_config(of)
    local entry = redis.call('HGET', KEYS[4], of)
    if not entry then return end
    change(entry, 'ZREM', entry)
    redis.call('HDEL', KEYS[4], of)
end

local others = redis.call('ZCARD', KEYS[2])
if redis.call('ZSCORE', KEYS[2], process) then others = others - 1 end
hear(others == 0, grace, lease, knew, heard)

if lease == 0 then redis.call('ZADD', KEYS[2], 0, process) end
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', digits(now))) do
    forget_config(dead)
    forget_load(dead)
    redis.call('ZREM', KEYS[2], dead)
    redis.call('ZREM', KEYS[3], dead)
end
if lease > 0 then
    redis.call('ZADD', KEYS[2], digits(now + lease), process)
    redis.call('ZADD', KEYS[3], 'NX', digits(now), process)
    local entry = string.format('p %s %016.0f %s', config, redis.call('ZSCORE', KEYS[3], process), process)
    if redis.call('HGET', KEYS[4], process) ~= entry or not redis.call('ZSCORE', KEYS[8], entry) then
        forget_config(process)
        change(entry, 'ZADD', 0, entry)
        redis.call('HSET', KEYS[4], process, entry)
    end
elseif redis.call('ZCARD', KEYS[2]) == 0 then
    redis.call('HDEL', KEYS[1], 'away_after')
end

for index = 9, loads_from - 1, 2 do
    local until_ = now + tonumber(ARGV[index + 1])
    local known = tonumber(redis.call('ZSCORE', KEYS[5], ARGV[index]) or 0)
    redis.call('ZADD', KEYS[5], digits(math.max(known, until_)), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', digits(now))

forget_load(process)
local loads = redis.call('HGETALL', KEYS[7])
if lease > 0 and loads_from < #ARGV then
    local mine = {}
    for index = loads_from, #ARGV, 2 do
        mine[ARGV[index]] = tonumber(ARGV[index + 1])
        redis.call('HINCRBY', KEYS[7], ARGV[index], ARGV[index + 1])
    end
    redis.call('HSET', KEYS[6], process, cmsgpack.pack(mine))
end
for index = 2, 8 do redis.call('EXPIRE', KEYS[index], 86400) end

local different = redis.call('ZLEXCOUNT', KEYS[8], '[c', '(d')
local in_force = {}
for index, each in ipairs(redis.call('ZRANGEBYLEX', KEYS[8], '[c', '(d', 'LIMIT', 0, listed)) do
    local left, its = each:match('^c (%d+) %d+ (.*)')
    local names = {}
    if different > 1 then
        local from, to = having(its)
        for number, of in ipairs(redis.call('ZRANGEBYLEX', KEYS[8], from, to, 'LIMIT', 0, listed)) do
            names[number] = of:sub(#its + 21)
        end
    end
    in_force[index] = {its, 1000000 - left, names}
end
local absences = redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES')
for index = 2, #absences, 2 do absences[index] = digits(tonumber(absences[index]) - now) end
return {
    digits(store.name), digits(now), math.max(0, store.opens_at - now), math.max(0, store.permits_at - now),
    redis.call('ZCARD', KEYS[2]), redis.call('ZRANK', KEYS[3], process) or 0, different, in_force, absences, loads
}
