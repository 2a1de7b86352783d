-- The time is Redis's own, so that everybody means the same by it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. '|' .. string.format('%d', now))
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  if now - string.match(found[i + 1], '%d+$') > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], found[i]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
