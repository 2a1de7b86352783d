"""The HTTP server of the public API: authentication, limits, errors and metrics around the functions."""
