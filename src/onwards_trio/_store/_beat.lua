-- Beat, as `LeaseStore._beat` has it.
-- KEYS: about the store; the processes, as `hear` has them, twice; since when they are there; their entries in the last
-- one; who is left out, until when; what load each process has told of, packed; the sum; who has which config.
local process, lease, grace, knew, heard, said = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local config, listed, loads_from = ARGV[7], tonumber(ARGV[8]), 10 + 2 * ARGV[9]

local function forget_load(of)
    local told = redis.call('HGET', KEYS[7], of)
    if not told then return end
    for identity, count in pairs(cmsgpack.unpack(told)) do
        if redis.call('HINCRBY', KEYS[8], identity, -count) <= 0 then redis.call('HDEL', KEYS[8], identity) end
    end
    redis.call('HDEL', KEYS[7], of)
end

-- Who has which config. A thousand processes beat a thousand times a second, so none of them may look at all others:
-- KEYS[9] keeps two kinds of entries, each kind in the order in which they are told. `p CONFIG SINCE PROCESS`: those with
-- a config stand together, the oldest first. `c LEFT SINCE CONFIG`: LEFT is a million less the number of its processes,
-- SINCE the age of the oldest, so the commonest comes first. A config is a word, SINCE has 16 digits.
local function having(of) return '[p ' .. of .. ' ', '(p ' .. of .. '!' end

local function place(of)
    local from, to = having(of)
    local oldest = redis.call('ZRANGEBYLEX', KEYS[9], from, to, 'LIMIT', 0, 1)[1]
    if not oldest then return nil end
    local left = 1000000 - redis.call('ZLEXCOUNT', KEYS[9], from, to)
    return string.format('c %06d %s %s', left, oldest:match('^p %S* (%d+)'), of)
end

local function change(entry, command, ...)
    local its = entry:match('^p (%S*)')
    local before = place(its)
    redis.call(command, KEYS[9], ...)
    local after = place(its)
    if before then redis.call('ZREM', KEYS[9], before) end
    if after then redis.call('ZADD', KEYS[9], 0, after) end
end

local function forget_config(of)
    local entry = redis.call('HGET', KEYS[5], of)
    if not entry then return end
    change(entry, 'ZREM', entry)
    redis.call('HDEL', KEYS[5], of)
end

for _, name in ipairs(hear(process, lease, grace, knew, heard, said)) do
    forget_config(name)
    forget_load(name)
    redis.call('ZREM', KEYS[4], name)
end
if lease > 0 then
    redis.call('ZADD', KEYS[4], 'NX', digits(now), process)
    local entry = string.format('p %s %016.0f %s', config, redis.call('ZSCORE', KEYS[4], process), process)
    if redis.call('HGET', KEYS[5], process) ~= entry or not redis.call('ZSCORE', KEYS[9], entry) then
        forget_config(process)
        change(entry, 'ZADD', 0, entry)
        redis.call('HSET', KEYS[5], process, entry)
    end
end

for index = 10, loads_from - 1, 2 do
    local until_ = now + tonumber(ARGV[index + 1])
    local known = tonumber(redis.call('ZSCORE', KEYS[6], ARGV[index]) or 0)
    redis.call('ZADD', KEYS[6], digits(math.max(known, until_)), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', digits(now))

forget_load(process)
local loads = redis.call('HGETALL', KEYS[8])
if lease > 0 and loads_from < #ARGV then
    local mine = {}
    for index = loads_from, #ARGV, 2 do
        mine[ARGV[index]] = tonumber(ARGV[index + 1])
        redis.call('HINCRBY', KEYS[8], ARGV[index], ARGV[index + 1])
    end
    redis.call('HSET', KEYS[7], process, cmsgpack.pack(mine))
end
for index = 4, 9 do redis.call('EXPIRE', KEYS[index], 86400) end

local different = redis.call('ZLEXCOUNT', KEYS[9], '[c', '(d')
local in_force = {}
for index, each in ipairs(redis.call('ZRANGEBYLEX', KEYS[9], '[c', '(d', 'LIMIT', 0, listed)) do
    local left, its = each:match('^c (%d+) %d+ (.*)')
    local names = {}
    if different > 1 then
        local from, to = having(its)
        for number, of in ipairs(redis.call('ZRANGEBYLEX', KEYS[9], from, to, 'LIMIT', 0, listed)) do
            names[number] = of:sub(#its + 21)
        end
    end
    in_force[index] = {its, 1000000 - left, names}
end
local absences = redis.call('ZRANGE', KEYS[6], 0, -1, 'WITHSCORES')
for index = 2, #absences, 2 do absences[index] = digits(tonumber(absences[index]) - now) end
return {
    digits(store.name), digits(now), opens_in(), permits_in(),
    redis.call('ZCARD', KEYS[2]), redis.call('ZRANK', KEYS[4], process) or 0, different, in_force, absences, loads
}
