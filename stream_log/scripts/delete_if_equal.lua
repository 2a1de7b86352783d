-- Delete a key if it has the given value.
-- KEYS: 1 the key.
-- ARGV: 1 the value.
-- Returns nothing.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
