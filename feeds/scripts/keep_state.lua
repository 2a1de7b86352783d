-- Store the feeds' state, its position and dead letters beside the log.
-- Works with a full Redis, because the log is trimmed by this position.
-- KEYS: 1 feeds:{k}, then the keys of the commands.
-- ARGV: 1 epoch; then commands, each after its length.
-- Returns 1, or 0 if another process has taken over: then nothing was changed.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
local i = 2
while i <= #ARGV do
  local count = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + count))
  i = i + count + 1
end
return 1
