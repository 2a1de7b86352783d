-- Commit a batch, all or nothing, if the position is as expected: append events, outbox and dead letters,
--   record a skipped entry, and advance the position, its checksum and the group's cursor.
-- KEYS: 1 pos:{k}; 2 ev:{k}; 3 out:{k}; 4 dead:{k}; 5 in:{k}; 6 pos:{k}:checksum; with a skip 7 skips:{k},
--   8 skip:{k}.
-- ARGV: 1 the expected position; 2 the new stream id; 3 the event frame or ''; 4 the number of outbox
--   frames; 5 the checksum or ''; 6, 7 id and instruction of the skipped entry or ''; then (target, frame)
--   per outbox frame; then the dead letters, each as a count and that many arguments.
-- Returns 1, or 0 if the position is not as expected: then nothing was written.
-- An entry has the position's id, or the next free one if a foreign entry with a larger id is in the
--   stream.
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
