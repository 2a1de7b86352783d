-- In a script, so that it is the run id of the very node that holds the shard, also on a cluster.
return {string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'), redis.call('GET', KEYS[1]) or ''}
