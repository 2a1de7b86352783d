-- Renew a leader's lease if its epoch is current.
-- Sent as EVAL, in pipelines and on new connections, so that it need not be loaded.
-- KEYS: 1 pos:{k}; 2 lease:{k}.
-- ARGV: 1 the epoch; 2 the lease's text; 3 its duration in ms; 4 '1': write the text, too, not only the
--   expiry.
-- Returns 1, or 0 if the epoch is not current.
if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') ~= ARGV[1] then return 0 end
if ARGV[4] == '1' or string.match(redis.call('GET', KEYS[2]) or '', '^%d+') ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[3])
else
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return 1
