"""The exchange on one machine: embedded servers, processes, backups, and the supervisor."""
