-- Beat, as `LeaseStore._beat` has it.
-- KEYS: about the store: `name`, `opens_at`; when processes were last heard; how long they are taken for alive; since
-- when they are there; their configs; who is left out, until when.
local process, lease, out_for, grace, config = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function digits(number) return string.format('%.0f', number) end

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
end
redis.call('ZADD', KEYS[2], digits(now), process)
redis.call('ZADD', KEYS[3], digits(now + lease), process)
redis.call('ZADD', KEYS[4], 'NX', digits(now), process)
redis.call('HSET', KEYS[5], process, config)

for index = 6, #ARGV, 2 do
    local until_ = now + tonumber(ARGV[index + 1])
    local known = tonumber(redis.call('ZSCORE', KEYS[6], ARGV[index]) or 0)
    redis.call('ZADD', KEYS[6], digits(math.max(known, until_)), ARGV[index])
end
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', digits(now))
for index = 1, 6 do redis.call('EXPIRE', KEYS[index], 86400) end

local configs, different = {}, 0
for _, each in ipairs(redis.call('HVALS', KEYS[5])) do
    if not configs[each] then configs[each], different = true, different + 1 end
end
local absences = redis.call('ZRANGE', KEYS[6], 0, -1, 'WITHSCORES')
for index = 2, #absences, 2 do absences[index] = digits(tonumber(absences[index]) - now) end
return {
    now, name, redis.call('ZCARD', KEYS[3]), redis.call('ZRANK', KEYS[4], process), math.max(0, opens_at - now), different,
    absences
}
