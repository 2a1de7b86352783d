-- Raise the epoch, and create the consumer group if there is none; a candidate takes the lease, too.
-- KEYS: 1 pos:{k}; 2 in:{k}; 3 lease:{k}; 4 pos:{k}:takeovers.
-- ARGV: 1 the consumer group; 2 the lease's text or '' (no candidate); 3 its duration in ms; 4 the lease
--   to replace.
-- Returns {new position, Redis's time in s}, or {false, 0} if another worker holds the lease.
if ARGV[2] ~= '' then
  local held = redis.call('GET', KEYS[3])
  if held and held ~= ARGV[4] then return {false, 0} end
end
local epoch, id = string.match(redis.call('GET', KEYS[1]) or '0|0-0', '^(%d+)|(.+)$')
local raised = string.format('%d', epoch + 1)
redis.call('SET', KEYS[1], raised .. '|' .. id)
if ARGV[2] ~= '' then redis.call('SET', KEYS[3], raised .. '|' .. ARGV[2], 'PX', ARGV[3]) end
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[1], id, 'MKSTREAM')
local at, count = string.match(redis.call('GET', KEYS[4]) or '', '^(.+)|(%d+)$')
redis.call('SET', KEYS[4], id .. '|' .. string.format('%d', at == id and count + 1 or 1))
return {raised .. '|' .. id, redis.call('TIME')[1]}
