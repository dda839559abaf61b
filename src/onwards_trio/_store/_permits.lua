-- HoldPermits, as `LeaseStore._hold` has it.
-- KEYS: about the store; what is held: `total`, `refused_at`, and for each process `count` and `turn`; until when.
local limit, process, turn, holds = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted, stock = tonumber(ARGV[5]), tonumber(ARGV[6])
local lease, grace = tonumber(ARGV[7]), tonumber(ARGV[8])
local CONTENDED = 1000000

notice_absence(false)
meet(grace, lease, not store.name)  -- Who asks for permits has heard a store: if this one is new, that was another one.

local total = tonumber(redis.call('HGET', KEYS[2], 'total') or 0)
local function forget(name)
    total = total - tonumber(redis.call('HGET', KEYS[2], 'count ' .. name) or 0)
    redis.call('HDEL', KEYS[2], 'count ' .. name, 'turn ' .. name)
end
if now >= (store.away_at or 0) + store.lease then
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', digits(now))) do
        forget(name)
        redis.call('ZREM', KEYS[3], name)
    end
end

local granted, stocked = 0, 0
local last = tonumber(redis.call('HGET', KEYS[2], 'turn ' .. process) or false)
if not last or last < turn then
    forget(process)
    local free = 0
    if permits_in() == 0 then free = math.max(0, limit - total - holds) end
    granted = math.min(wanted, free)
    if granted < wanted then
        redis.call('HSET', KEYS[2], 'refused_at', digits(now))
    else
        stocked = math.min(stock, free - granted)
    end
    local count = holds + granted + stocked
    total = total + count
    redis.call('HSET', KEYS[2], 'count ' .. process, count, 'turn ' .. process, turn)
    redis.call('ZADD', KEYS[3], digits(now + lease), process)
end
redis.call('HSET', KEYS[2], 'total', total)
local last_until = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or now
-- Two leases more, for when the store was away.
local keep = digits(math.ceil((tonumber(last_until) - now + 2 * store.lease + CONTENDED) / 1000))
redis.call('PEXPIRE', KEYS[2], keep)
redis.call('PEXPIRE', KEYS[3], keep)
local contended = now - tonumber(redis.call('HGET', KEYS[2], 'refused_at') or -CONTENDED) < CONTENDED
return {now, granted, stocked, contended and 1 or 0, permits_in(), math.max(0, total - limit)}
