-- List a complete snapshot and drop the oldest ones, unless the newest listed snapshot reaches as far.
-- KEYS: 1 snapshots:{k}; 2 snapshot:{k}:NAME.
-- ARGV: 1 the stream id that it reaches; 2 NAME; 3 the prefix `snapshot:{k}:`; 4 '1': replace one that
--   reaches as far.
-- Returns 1, or 0 if the snapshot was deleted instead.
local function parts(id) return string.match(id, '^(%d+)-(%d+)$') end
local newest = string.match(redis.call('LINDEX', KEYS[1], 0) or '', '^saved|([^|]+)|')
if newest and ARGV[1] ~= '0-0' then
  local ms, number = parts(ARGV[1])
  local newest_ms, newest_number = parts(newest)
  local later = ms - newest_ms
  local further = later == 0 and number - newest_number or later
  if further < 0 or (further == 0 and ARGV[4] ~= '1') then
    redis.call('UNLINK', KEYS[2])
    return 0
  end
end
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('PERSIST', KEYS[2])
redis.call('LPUSH', KEYS[1], 'saved|' .. ARGV[1] .. '|' .. now .. '|' .. ARGV[2])
while redis.call('LLEN', KEYS[1]) > 2 do
  local name = string.match(redis.call('RPOP', KEYS[1]), '^saved|.*|(%w+)$')
  if name then redis.call('UNLINK', ARGV[3] .. name) end
end
return 1
