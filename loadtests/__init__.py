"""Load on a running exchange: traders, watchers, and what they measured."""
