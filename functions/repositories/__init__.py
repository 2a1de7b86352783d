"""Ports to the database, one per file; adapters/ implements each in a file of the same name.

Their methods raise `ApiError` (unavailable) if the database is unreachable or too slow.
"""
