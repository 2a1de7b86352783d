"""The log: streams of inputs and events, shard positions, leases, snapshots, halts.

Redis keeps it; a twin in memory serves tests.
"""
