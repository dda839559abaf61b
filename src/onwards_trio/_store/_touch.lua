-- A Beat, where a part of the store is that knows nothing of processes. KEYS: about this part of the store.
local grace, lease, knew = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function digits(number) return string.format('%.0f', number) end

local name, opens_at, permits_at = unpack(redis.call('HMGET', KEYS[1], 'name', 'opens_at', 'permits_at'))
if not name then name, opens_at, permits_at = digits(now), now + grace, now + grace end
opens_at, permits_at = tonumber(opens_at), tonumber(permits_at)
if knew ~= '' and knew ~= name then permits_at = math.max(permits_at, tonumber(name) + lease) end
redis.call('HSET', KEYS[1], 'name', name, 'opens_at', digits(opens_at), 'permits_at', digits(permits_at))
redis.call('EXPIRE', KEYS[1], 86400)
return {name, math.max(0, opens_at - now), math.max(0, permits_at - now)}
