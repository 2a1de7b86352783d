-- Remove an entry if it has the given fields; without fields, whatever its contents.
-- A foreign entry, even with the same id, must remain visible.
-- KEYS: 1 the stream.
-- ARGV: 1 the entry's id; then its fields and values.
-- Returns the number of removed entries.
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if #ARGV > 1 then
  if not entry or #entry[2] ~= #ARGV - 1 then return 0 end
  for i = 2, #ARGV do if entry[2][i - 1] ~= ARGV[i] then return 0 end end
end
return redis.call('XDEL', KEYS[1], ARGV[1])
