redis.call('HSETNX', KEYS[2], READER, STREAM_START)
return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
