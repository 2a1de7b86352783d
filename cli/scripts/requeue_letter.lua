-- A letter that somebody else has removed meanwhile is not put back a second time.
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return false end
return redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[3])
