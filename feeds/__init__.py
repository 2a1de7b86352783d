"""Turns the shards' event logs into public market data and private account streams."""
