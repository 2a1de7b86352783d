"""The shards: `core` is pure and deterministic, `worker.py` is the shell around it."""
