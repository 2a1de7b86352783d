"""Scripts that trade on a running exchange; README.md says how to run them."""
