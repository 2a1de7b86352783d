-- Remove an entry if it is the one that is meant (or, without fields, whatever it is): what somebody else has
-- put there, under the very same id perhaps, must be seen and not swept away.
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if #ARGV > 1 then
  if not entry or #entry[2] ~= #ARGV - 1 then return 0 end
  for i = 2, #ARGV do if entry[2][i - 1] ~= ARGV[i] then return 0 end end
end
return redis.call('XDEL', KEYS[1], ARGV[1])
