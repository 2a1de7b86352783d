-- Announce a standby with Redis's time, which is the same for all processes; drop expired announcements.
-- KEYS: 1 standbys:{k}.
-- ARGV: 1 the process; 2 the announcement without time; 3 ms that an announcement is valid.
-- Returns nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. '|' .. string.format('%d', now))
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  if now - string.match(found[i + 1], '%d+$') > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], found[i]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
