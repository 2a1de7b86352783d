"""What several kinds of tests are made of."""
