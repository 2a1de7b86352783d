"""Process infrastructure: settings, lifecycle, logs, metrics, and connections to Redis."""
