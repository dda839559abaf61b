-- Beat, as `LeaseStore._beat` has it.
-- KEYS: about the store: `name`, `opens_at`; when processes were last heard; how long they are taken for alive; since
-- when they are there; their configs; who is left out, until when; what load each process has told of, packed; the sum.
local process, lease, out_for, grace, config = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local listed, loads_from = tonumber(ARGV[6]), 8 + 2 * ARGV[7]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function digits(number) return string.format('%.0f', number) end

local function forget_load(of)
    local told = redis.call('HGET', KEYS[7], of)
    if not told then return end
    for identity, count in pairs(cmsgpack.unpack(told)) do
        if redis.call('HINCRBY', KEYS[8], identity, -count) <= 0 then redis.call('HDEL', KEYS[8], identity) end
    end
    redis.call('HDEL', KEYS[7], of)
end

local name = redis.call('HGET', KEYS[1], 'name')
if not name then
    name = process .. ' ' .. digits(now)
    redis.call('HSET', KEYS[1], 'name', name)
end
local opens_at = tonumber(redis.call('HGET', KEYS[1], 'opens_at') or false)
redis.call('ZREM', KEYS[2], process)
if not opens_at then
    opens_at = now + grace
elseif out_for > 0 and now >= opens_at then
    -- Somebody else was heard meanwhile: then the store was not away.
    if redis.call('ZCOUNT', KEYS[2], '(' .. digits(now - out_for), '+inf') == 0 then
        opens_at = now
        if redis.call('ZCARD', KEYS[2]) > 0 then opens_at = now + grace end
    end
end
redis.call('HSET', KEYS[1], 'opens_at', digits(opens_at))

for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', digits(now))) do
    redis.call('ZREM', KEYS[2], dead)
    redis.call('ZREM', KEYS[3], dead)
    redis.call('ZREM', KEYS[4], dead)
    redis.call('HDEL', KEYS[5], dead)
    forget_load(dead)
end
redis.call('ZADD', KEYS[2], digits(now), process)
redis.call('ZADD', KEYS[3], digits(now + lease), process)
redis.call('ZADD', KEYS[4], 'NX', digits(now), process)
redis.call('HSET', KEYS[5], process, config)

for index = 8, loads_from - 1, 2 do
    local until_ = now + tonumber(ARGV[index + 1])
    local known = tonumber(redis.call('ZSCORE', KEYS[6], ARGV[index]) or 0)
    redis.call('ZADD', KEYS[6], digits(math.max(known, until_)), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', digits(now))

forget_load(process)
local loads = redis.call('HGETALL', KEYS[8])
if loads_from < #ARGV then
    local mine = {}
    for index = loads_from, #ARGV, 2 do
        mine[ARGV[index]] = tonumber(ARGV[index + 1])
        redis.call('HINCRBY', KEYS[8], ARGV[index], ARGV[index + 1])
    end
    redis.call('HSET', KEYS[7], process, cmsgpack.pack(mine))
end
for index = 1, 8 do redis.call('EXPIRE', KEYS[index], 86400) end

local counts, different = {}, 0
for _, each in ipairs(redis.call('HVALS', KEYS[5])) do
    if not counts[each] then counts[each], different = 0, different + 1 end
    counts[each] = counts[each] + 1
end
local in_force = {{config, counts[config], {}}}
if different > 1 then
    -- In the order in which the oldest process of each came; then the commonest first.
    local of, all, having = {}, redis.call('HGETALL', KEYS[5]), {}
    for index = 1, #all, 2 do of[all[index]] = all[index + 1] end
    in_force = {}
    for _, each in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
        local its = of[each]
        if not having[its] then
            having[its] = {its, counts[its], {}, #in_force}
            in_force[#in_force + 1] = having[its]
        end
        local names = having[its][3]
        if #names < listed then names[#names + 1] = each end
    end
    table.sort(in_force, function(one, other)
        if one[2] ~= other[2] then return one[2] > other[2] end
        return one[4] < other[4]
    end)
    while #in_force > listed do table.remove(in_force) end
end
local absences = redis.call('ZRANGE', KEYS[6], 0, -1, 'WITHSCORES')
for index = 2, #absences, 2 do absences[index] = digits(tonumber(absences[index]) - now) end
return {
    now, name, redis.call('ZCARD', KEYS[3]), redis.call('ZRANK', KEYS[4], process), math.max(0, opens_at - now), different,
    in_force, absences, loads
}
