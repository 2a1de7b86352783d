"""Implementations of the functions' ports (functions/api/ports.py), and what their processes share.

Redis and the database behind ports, the queue to the shards, authentication and rate limits.
"""
