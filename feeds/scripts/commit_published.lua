-- Write, publish and advance the published mark of a shard's feeds, all or nothing.
-- KEYS: 1 feeds:{k}, then the keys of the commands.
-- ARGV: 1 epoch; 2, 3 expected published id and time; 4, 5 the new ones; then commands, each after its
--   length.
-- Returns 1, or 0 if another process has taken over or the mark is not as expected: then nothing was
--   changed.
-- The mark advances last: if a command fails in the middle, the commands before it are repeated.

-- FORGIVE key, orders, untold: take orders off a pot (adapters/shares.py) if it exists; at most all those that were
-- used or not told yet.
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
