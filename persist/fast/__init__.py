"""Rows without objects: the rows of usual events, written by an extension, several times as fast as rows.py.

`python -m engine_worker.core_fast.build` builds it. persist/compiled_rows.py uses it where it is there.
"""
