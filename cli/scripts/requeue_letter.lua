-- Put a dead letter's command back into a shard's input, unless somebody else has removed the letter.
-- KEYS: 1 dead:{k}; 2 in:{k}.
-- ARGV: 1 the letter's id; 2, 3 field and frame of the new entry.
-- Returns the id of the new entry, or false.
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return false end
return redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[3])
