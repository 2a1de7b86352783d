-- Counts an attempt and says when the next may be; or, when it is too early, how long it still is. One step,
-- whoever else tries.
local count, due = string.match(redis.call('GET', KEYS[1]) or '0|0', '(%d+)|(%d+)')
count, due = tonumber(count), tonumber(due)
local now, free, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now < due then return due - now end
count = count + 1
local wait = 0
if count > free then wait = math.min(most, 1000 * 2 ^ math.min(count - free - 1, 20)) end
redis.call('SET', KEYS[1], string.format('%d|%.0f', count, now + wait), 'PX', ARGV[4])
return 0
