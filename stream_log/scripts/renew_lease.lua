-- These travel as they are, in pipelines and on a connection that has just been made: no script has to be
-- known.
if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') ~= ARGV[1] then return 0 end
if ARGV[4] == '1' or string.match(redis.call('GET', KEYS[2]) or '', '^%d+') ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[3])
else
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return 1
