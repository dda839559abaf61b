-- A Beat, where a part of the store is that is told of processes only that they are there.
-- KEYS: about the store; the processes, as `hear` has them.
hear(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6])
return {digits(store.name), digits(now), opens_in(), permits_in()}
