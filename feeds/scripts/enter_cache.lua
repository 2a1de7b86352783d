-- Let only the feeds process with the newest epoch write to the Redis for data that can be lost.
-- KEYS: 1 feeds:{k}, of which only the epoch is stored there; nothing after that Redis was emptied.
-- ARGV: 1 the epoch of the process.
-- Returns 1, or 0 if a process with a newer epoch has entered.
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if epoch > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
return 1
