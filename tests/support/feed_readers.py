"""The two readers of event frames that feeds have: the compiled one, and feeds/frames.py alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from feeds import fast
from protocol.codec import UNNUMBERED, LaterFormatError, encode_events, format_of

if TYPE_CHECKING:
    from feeds.fast._heads import FrameHeads

COMPILED = "compiled"
OBJECTS = "objects"

needs_extension = pytest.mark.skipif(
    fast.read is None, reason="THE COMPILED READER OF FEEDS IS NOT TESTED, it is not built"
)


@contextmanager
def objects_only() -> Iterator[None]:
    """Let feeds decode every frame with feeds/frames.py, and sum trades with protocol/trade_sums.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "read", None)
        patch.setattr(fast, "fold", None)
        yield


@contextmanager
def unnumbered_too() -> Iterator[None]:
    """Let the compiled reader also read frames of format 1, in which many tests write events."""
    read = fast.read
    assert read is not None

    def read_any(frame: bytes) -> "FrameHeads | None":
        try:
            is_unnumbered = format_of(frame) == UNNUMBERED
        except LaterFormatError:
            is_unnumbered = False
        return read(encode_events(frame, 0) if is_unnumbered else frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "read", read_any)
        yield


@pytest.fixture(scope="module", params=[pytest.param(COMPILED, marks=needs_extension), OBJECTS])
def feed_reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the tests with the compiled reader, and without it."""
    with unnumbered_too() if request.param == COMPILED else objects_only():
        yield
