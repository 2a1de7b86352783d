-- Count a sign-in attempt, and set when the next one is allowed; atomic, however many processes try.
-- KEYS: 1 a counter, `count|due_ms`.
-- ARGV: 1 the time in ms; 2 attempts without a delay; 3 the largest delay in ms; 4 ms until the counter
--   expires.
-- Returns 0 if the attempt is allowed, otherwise the ms until it is.
local count, due = string.match(redis.call('GET', KEYS[1]) or '0|0', '(%d+)|(%d+)')
count, due = tonumber(count), tonumber(due)
local now, free, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now < due then return due - now end
count = count + 1
local wait = 0
if count > free then wait = math.min(most, 1000 * 2 ^ math.min(count - free - 1, 20)) end
redis.call('SET', KEYS[1], string.format('%d|%.0f', count, now + wait), 'PX', ARGV[4])
return 0
