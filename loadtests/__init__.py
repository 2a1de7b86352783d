"""Load on a running exchange: traders, watchers, and their measurements."""
