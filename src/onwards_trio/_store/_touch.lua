-- A Beat, where a part of the store is that knows nothing of processes. KEYS: about this part of the store.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local opens_at = tonumber(redis.call('HGET', KEYS[1], 'opens_at') or false)
if not opens_at then
    opens_at = now + tonumber(ARGV[1])
    redis.call('HSET', KEYS[1], 'opens_at', string.format('%.0f', opens_at))
end
redis.call('EXPIRE', KEYS[1], 86400)
return {math.max(0, opens_at - now)}
