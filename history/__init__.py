"""What was: states and books at a moment of the past, the story of an order, and a Redis made anew from the
archive.
"""
