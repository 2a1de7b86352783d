-- Write a shard's configuration if the position is as expected.
-- An unchanged value is not written again.
-- KEYS: 1 pos:{k}; 2 config:{k}.
-- ARGV: 1 the expected position; 2 the configuration.
-- Returns 1, or 0 if the position is not as expected.
if (redis.call('GET', KEYS[1]) or '0|0-0') ~= ARGV[1] then return 0 end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) end
return 1
