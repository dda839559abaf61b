-- TakeTokens, as `LeaseStore._tokens` has it.
-- KEYS: about the store; the moment at which the bucket is full again.
local time, tokens, slack = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local wanted, stock, lifetime = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local returned, returned_from = tonumber(ARGV[7]), tonumber(ARGV[8])
local owed, owed_since, owed_until = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
notice_absence(false)

local function divide(a, b)  -- rounded down: a quotient may have been rounded up to the next whole number
    local quotient = math.floor(a / b)
    if quotient * b > a then quotient = quotient - 1 end
    return quotient
end
local function cost(count) return divide(count * time + tokens - 1, tokens) end
local function affordable(free) return divide(free * tokens, time) end

local full_at = tonumber(redis.call('GET', KEYS[2]) or 0)
if owed > 0 then
    local empty = owed_until + slack + cost(1)
    full_at = math.max(full_at, math.min(math.max(full_at, owed_since) + owed, empty))
end
local worth = divide(returned * time, tokens) - math.max(0, now - returned_from)
local empty = store.emptied_at and store.emptied_at + slack + cost(1) or 0
full_at = math.max(full_at - math.max(0, worth), empty, now)
local latest = now + slack
local granted, stocked, wait = 0, 0, 0
if wanted > 0 and full_at <= latest then
    granted = math.min(wanted, affordable(latest - full_at) + 1)
    full_at = full_at + cost(granted)
end
if granted < wanted then
    wait = full_at - latest
else
    local aged = math.max(full_at, now + lifetime)
    if stock > 0 and aged <= latest then
        stocked = math.min(stock, affordable(latest - aged) + 1)
        full_at = aged + cost(stocked)
    end
end
-- Kept for ten minutes more, for what is owed from before the store was away.
local keep = math.ceil((full_at - now) / 1000) + 600000
redis.call('SET', KEYS[2], digits(full_at), 'PX', digits(keep))
return {now, granted, stocked, wait}
