"""The simulation: what it must find, what it must not, and that its twins are like what they stand for."""
