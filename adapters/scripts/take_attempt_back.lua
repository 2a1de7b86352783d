-- Take a successful attempt back from a counter.
-- KEYS: 1 a counter, `count|due_ms`.
-- ARGV: 1 attempts without a delay; 2 ms until the counter expires.
-- Returns nothing of interest.
local count, due = string.match(redis.call('GET', KEYS[1]) or '0|0', '(%d+)|(%d+)')
count = tonumber(count) - 1
if count <= 0 then return redis.call('DEL', KEYS[1]) end
if count <= tonumber(ARGV[1]) then due = '0' end
return redis.call('SET', KEYS[1], string.format('%d|%s', count, due), 'PX', ARGV[2])
