"""Moves the shards' event logs into PostgreSQL or TimescaleDB, exactly once."""
