if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') == ARGV[1] then redis.call('DEL', KEYS[1]) end
