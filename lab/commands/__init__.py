"""Commands of `exchange` that only a development installation has."""
