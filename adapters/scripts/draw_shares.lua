-- Draw from pots: `drawn` of adapters/shares.py, for several pots. A pot that does not change is not
--   written.
-- KEYS: the pots (hashes: t taken, u used, v version).
-- ARGV: 1 the name of the process; then 7 per pot: limit, reserve, used, returned, needed, wished, ms to
--   live.
-- Returns 4 numbers per pot: given, used, taken, version. Publishes the changed pots on RATE_WORDS.
local answers, words = {}, {}
for i, key in ipairs(KEYS) do
  local a = 7 * (i - 1) + 1
  local limit, reserve, used = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local returned, needed, wished = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])
  local pot = redis.call('HMGET', key, 't', 'u', 'v')
  local t, u, v = tonumber(pot[1] or 0), tonumber(pot[2] or 0) + used, tonumber(pot[3] or 0)
  t = math.max(0, t - returned)
  local given, wanted = 0, needed
  if limit - t >= needed then
    given = needed + math.max(0, math.min(wished, math.floor((limit - t - needed - reserve) / PART)))
    t, u, wanted = t + given, u + needed, 0
  end
  if v == 0 or used ~= 0 or returned ~= 0 or given ~= 0 or wanted ~= 0 then
    v = v + 1
    redis.call('HSET', key, 't', t, 'u', u, 'v', v)
    if v == 1 then redis.call('PEXPIRE', key, ARGV[a + 7]) end
    words[#words + 1] = key .. ' ' .. u .. ' ' .. t .. ' ' .. v .. ' ' .. wanted
  end
  local n = #answers
  answers[n + 1], answers[n + 2], answers[n + 3], answers[n + 4] = given, u, t, v
end
if #words > 0 then redis.pcall('PUBLISH', RATE_WORDS, ARGV[1] .. '\n' .. table.concat(words, '\n')) end
return answers
