"""Names that are unique among all processes."""

import itertools
import os
import secrets
import socket
from collections.abc import Iterator


def own_instance() -> str:
    """Return a name that distinguishes this process from others of its name."""
    return f"{socket.gethostname()}.{os.getpid()}"


class UniqueNames:
    """Generates names: a random prefix of the process, `between`, and a number in hexadecimal.

    A forked process takes another prefix.
    """

    def __init__(self, between: str = "") -> None:
        self._between = between
        self._prefix = ""
        self._numbers: Iterator[int] = iter(())
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def next(self) -> str:
        """Return a new name: 16 characters, `between`, and the number."""
        return f"{self._prefix}{self._between}{next(self._numbers):x}"

    def _begin(self) -> None:
        self._prefix = secrets.token_urlsafe(12)
        self._numbers = itertools.count(1)
