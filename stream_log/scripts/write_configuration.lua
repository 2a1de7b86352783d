-- The value is compared first, so that to say the same again is no write.
if (redis.call('GET', KEYS[1]) or '0|0-0') ~= ARGV[1] then return 0 end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) end
return 1
