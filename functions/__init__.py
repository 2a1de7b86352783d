"""The stateless handlers of the public API, one file per function; `catalog.py` lists them.

Each validates, and either enqueues a command, asks a shard, reads a read model, or queries the database. They hold nothing
between requests, and reach the world only through the ports of `ports.py`.
"""
