-- Append a piece to an unfinished snapshot.
-- KEYS: 1 snapshot:{k}:NAME.
-- ARGV: 1 the piece; 2 seconds until the unfinished snapshot expires.
-- Returns nothing.
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
