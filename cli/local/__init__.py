"""The exchange on one machine: embedded servers, their processes, their backups, and the supervisor of
all.
"""
