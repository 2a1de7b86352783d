"""File descriptors: every connection needs one, and most shells allow 1,024."""

import resource
from typing import Final

import structlog

RESERVED: Final = 256
"""Descriptors for files, Redis, the database and logs; the remaining ones are for connections."""

_log = structlog.get_logger()


def raise_descriptors() -> int:
    """Raise the limit of open file descriptors to the hard limit, log it, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = soft
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            raised = hard
        except (OSError, ValueError) as error:  # an unlimited hard limit may be more than the kernel allows
            _log.warning("file descriptors not raised", limit=soft, error=str(error))
    _log.info("file descriptors", limit=raised, before=soft)
    return raised


def connections_possible(connections: int, descriptors: int) -> int:
    """Return how many of the wanted connections have a descriptor, at least 1."""
    if descriptors == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, descriptors - RESERVED))
