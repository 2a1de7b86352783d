"""Memoizes slow pure functions of a run: workers apply a log about ten times."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, Final

import engine_worker.core.authority
import protocol.codec

_KEPT: Final = 4_096


@contextmanager
def memoized() -> Iterator[None]:
    """Let signatures be verified, and garbage be taken apart, once each: a tenth of a run's time."""
    owners = ((vars(protocol.codec), "array_items"), (vars(engine_worker.core.authority), "is_genuine"))
    originals = [owner[name] for owner, name in owners]
    for (owner, name), function in zip(owners, originals, strict=True):
        owner[name] = _memoized(function)
    try:
        yield
    finally:
        for (owner, name), function in zip(owners, originals, strict=True):
            owner[name] = function


def _memoized(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that caches the results of the other; of a list it returns a copy each time.

    Errors are raised again.
    """
    kept = lru_cache(_KEPT)(function)

    @wraps(function)
    def once(*arguments: Any) -> Any:
        result = kept(*arguments)
        return list(result) if isinstance(result, list) else result

    return once
