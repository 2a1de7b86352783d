"""The vocabulary of the processes: units, markets, commands, events, replies, and Redis keys. No I/O."""
