"""One file per command of `exchange`."""
