"""Breaks a real exchange on purpose while it trades, and judges every order: `exchange chaos`."""
