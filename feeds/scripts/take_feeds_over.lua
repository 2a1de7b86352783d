-- Register the reader of a shard's events, and raise the epoch of its feeds.
-- KEYS: 1 feeds:{k}; 2 passed:{k}.
-- Returns the new epoch.
redis.call('HSETNX', KEYS[2], READER, STREAM_START)
return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
