"""Process plumbing: settings, the stream log, lifecycle, logs, metrics."""
