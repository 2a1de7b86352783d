-- Compare, append the events, the outbox and the dead letters (each as a count and so many arguments), note
-- what was passed over, move the position, its checksum and the group's cursor: all or nothing. An entry takes
-- the position's id, or the next free one when somebody put garbage with a larger id into the stream.
local function append(stream, ...)
  if redis.pcall('XADD', stream, ARGV[2], ...).err then redis.call('XADD', stream, '*', ...) end
end
if (redis.call('GET', KEYS[1]) or '0|0-0') ~= ARGV[1] then return 0 end
if ARGV[3] ~= '' then append(KEYS[2], 'e', ARGV[3]) end
local frames = tonumber(ARGV[4])
if frames > 0 then append(KEYS[3], unpack(ARGV, 8, 7 + 2 * frames)) end
local i = 8 + 2 * frames
while i <= #ARGV do
  local count = tonumber(ARGV[i])
  redis.call('XADD', KEYS[4], '*', unpack(ARGV, i + 1, i + count))
  i = i + 1 + count
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[7], ARGV[6], ARGV[7])
  if redis.call('GET', KEYS[8]) == ARGV[7] then redis.call('DEL', KEYS[8]) end
end
redis.call('SET', KEYS[1], string.match(ARGV[1], '^%d+|') .. ARGV[2])
if ARGV[5] ~= '' then redis.call('SET', KEYS[6], ARGV[2] .. '|' .. ARGV[5]) else redis.call('DEL', KEYS[6]) end
redis.pcall('XGROUP', 'SETID', KEYS[5], ENGINE_GROUP, ARGV[2])
return 1
