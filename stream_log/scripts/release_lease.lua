-- Release the lease if the epoch holds it.
-- KEYS: 1 lease:{k}.
-- ARGV: 1 the epoch.
-- Returns nothing.
if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') == ARGV[1] then redis.call('DEL', KEYS[1]) end
