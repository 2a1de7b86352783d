"""The past: states and books at earlier moments, the story of an order, and a restore from the archive."""
