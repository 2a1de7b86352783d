"""The deterministic state machine of one shard: books, accounts, and what commands do to them.

No I/O, no clock.
"""
