"""The stateless handlers of the public API, one file per function; `catalog.py` lists them.

Each handler validates, and then enqueues a command, queries a shard, reads a read model, or queries a
repository, which is a port to the database. Handlers keep nothing between requests, and do all I/O through
`api/ports.py` and `repositories/`.
"""
