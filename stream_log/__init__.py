"""The log: streams of inputs and events, shard positions, leases, snapshots, halts.

Redis stores it; an in-memory implementation serves tests.
"""
