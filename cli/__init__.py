"""The `exchange` command: starts, watches and stops the processes, and shows what they do."""
