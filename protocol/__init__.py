"""The words the processes speak: units, markets, commands, events, replies, and every Redis key. No I/O."""
