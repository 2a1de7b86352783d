"""What developers try the exchange with: simulation, chaos, benchmarks, and their commands.

Not in the production image.
"""
