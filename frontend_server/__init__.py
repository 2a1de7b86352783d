"""Builds the frontend when its sources have changed, and serves it: static files, and where the API is."""
