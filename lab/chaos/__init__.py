"""Breaks a real exchange on purpose while it trades, and judges what became of every order: `exchange
chaos`.
"""
