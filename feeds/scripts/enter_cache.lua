-- Where what may be lost is: let nobody write who has not started last. Nothing but the epoch is there of a
-- Redis that was emptied.
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if epoch > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
return 1
