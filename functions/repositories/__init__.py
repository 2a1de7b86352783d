"""Ports to the database, one a file: what each takes and returns. adapters/ implements each in a file of the
same name.

Their methods raise `ApiError` (unavailable) when the database cannot be reached, or takes too long.
"""
