"""Names that no other process gives."""

import itertools
import os
import secrets
import socket
from collections.abc import Iterator


def own_instance() -> str:
    """Return what tells this process from others of its name."""
    return f"{socket.gethostname()}.{os.getpid()}"


class UniqueNames:
    """Gives names: a random prefix of the process, `between`, and a number in hexadecimal.

    A forked process takes another prefix.
    """

    def __init__(self, between: str = "") -> None:
        self._between = between
        self._prefix = ""
        self._numbers: Iterator[int] = iter(())
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def next(self) -> str:
        """Return one that was not given before: 16 characters, `between`, and the number."""
        return f"{self._prefix}{self._between}{next(self._numbers):x}"

    def _begin(self) -> None:
        self._prefix = secrets.token_urlsafe(12)
        self._numbers = itertools.count(1)
