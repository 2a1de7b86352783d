-- Compare, then write, publish and move on: all or nothing. A process that was replaced, or repeats itself,
-- changes nothing. It moves on last: should a command fail in the middle, what came before it is done again.
-- FORGIVE key, orders, untold: take orders off a count (a pot, see adapters/shares.py) where there is one, but
-- not below what may be untold.
local function forgive(key, orders, untold)
  local pot = redis.call('HMGET', key, 't', 'u', 'v')
  if not pot[3] then return nil end
  local t, u, v = tonumber(pot[1]), tonumber(pot[2]), tonumber(pot[3]) + 1
  local back = math.min(orders, t, math.max(0, u + untold))
  if back <= 0 then return nil end
  redis.call('HSET', key, 't', t - back, 'u', u - back, 'v', v)
  return key .. ' ' .. (u - back) .. ' ' .. (t - back) .. ' ' .. v .. ' 0'
end
local at = redis.call('HMGET', KEYS[1], 'epoch', 'published_id', 'published_time')
if at[1] ~= ARGV[1] or (at[2] or '0-0') ~= ARGV[2] or (at[3] or '0') ~= ARGV[3] then return 0 end
local i, words = 6, {}
while i <= #ARGV do
  local count = tonumber(ARGV[i])
  if ARGV[i + 1] == 'FORGIVE' then
    local word = forgive(ARGV[i + 2], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]))
    if word then words[#words + 1] = word end
  else
    redis.call(unpack(ARGV, i + 1, i + count))
  end
  i = i + count + 1
end
redis.call('HSET', KEYS[1], 'published_id', ARGV[4], 'published_time', ARGV[5])
if #words > 0 then redis.pcall('PUBLISH', RATE_WORDS, '\n' .. table.concat(words, '\n')) end
return 1
