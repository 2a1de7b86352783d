"""The stateless handlers of the public API, one file per function; `catalog.py` lists them.

Each validates, and either enqueues a command, asks a shard, reads a read model, or asks a repository, which
is a port to the database. They hold nothing between requests, and reach the world only through `api/ports.py`
and `repositories/`.
"""
