"""Waiting until something holds, and failing with a description when it does not."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

import pytest

TIMEOUT_S: Final = 60.0
_POLL_S_MIN: Final = 0.01
_POLL_S_MAX: Final = 0.1

T = TypeVar("T")


def _nothing() -> None:
    pass


def eventually(
    what: str,
    ask: Callable[[], T | None],
    timeout_s: float = TIMEOUT_S,
    meanwhile: Callable[[], object] = _nothing,
) -> T:
    """Return the first truthy answer; call `meanwhile` before each retry, and fail after `timeout_s`."""
    deadline, poll_s = time.monotonic() + timeout_s, _POLL_S_MIN
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what} (last answer: {answer!r})")
        meanwhile()
        time.sleep(poll_s)
        poll_s = min(poll_s * 1.5, _POLL_S_MAX)
