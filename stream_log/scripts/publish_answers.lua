-- Publish answers if the position is as expected.
-- KEYS: 1 pos:{k}.
-- ARGV: 1 the expected position; then (channel, payload) pairs.
-- Returns 1, or 0 if the position is not as expected.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return 1
