-- Read the run id of the node that holds the shard, also on a cluster, and the note about its log.
-- KEYS: 1 guard:{k}.
-- Returns {run id, note or ''}.
return {string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'), redis.call('GET', KEYS[1]) or ''}
