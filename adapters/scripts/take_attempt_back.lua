-- Takes one that succeeded back.
local count, due = string.match(redis.call('GET', KEYS[1]) or '0|0', '(%d+)|(%d+)')
count = tonumber(count) - 1
if count <= 0 then return redis.call('DEL', KEYS[1]) end
if count <= tonumber(ARGV[1]) then due = '0' end
return redis.call('SET', KEYS[1], string.format('%d|%s', count, due), 'PX', ARGV[2])
