-- Beside the log: the state, how far it reaches, and what could not be understood. Redis may be full; the log
-- is trimmed by this.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
local i = 2
while i <= #ARGV do
  local count = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + count))
  i = i + count + 1
end
return 1
