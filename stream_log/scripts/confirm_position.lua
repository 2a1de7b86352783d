-- Write the position again unchanged, so that waiting for this write is waiting for all writes before it.
-- KEYS: 1 pos:{k}.
-- ARGV: 1 the expected position.
-- Returns 1, or 0 if the position is not as expected.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
