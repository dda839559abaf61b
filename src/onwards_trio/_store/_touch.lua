-- A Beat, where a part of the store is that knows nothing of processes.
hear(false, tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4])
return {digits(store.name), digits(now), math.max(0, store.opens_at - now), math.max(0, store.permits_at - now)}
