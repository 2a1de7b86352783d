"""Scenarios in the words of the market."""
