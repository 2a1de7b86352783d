"""Orders: place, check, cancel, look up; one file per function of the API."""
