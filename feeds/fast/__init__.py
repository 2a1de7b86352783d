"""The compiled reader of event frames: the same results as feeds/frames.py, several times as fast.

`python -m engine_worker.core_fast.build` builds its extension. `read` and `fold` are None when the extension
is not built, or was built from other sources; then feeds/state.py decodes every frame with feeds/frames.py,
which remains the definition.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from feeds.fast._heads import FrameHeads
    from protocol.trade_sums import TradeSum

    _Read = Callable[[bytes], FrameHeads | None]
    _Fold = Callable[[bytes, int, int], list[tuple[int, TradeSum]] | None]

__all__ = ["fold", "read", "sources_hash"]

_FOLDER: Final = Path(__file__).parent
_SOURCES: Final = (
    _FOLDER.parents[1] / "engine_worker" / "core_fast" / "wire.pxi",
    _FOLDER / "heads.pyx",
)
"""The files that the extension is built from, sorted as in runtime/extensions.py."""


def sources_hash() -> str:
    """Return the hash of the extension's sources, computed as in runtime/extensions.py.

    What decides imports no runtime, hence the second implementation; a test compares the two.

    Raises:
        OSError: a source file is missing.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for path in _SOURCES:
        hashed.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()


def _compiled() -> "tuple[_Read, _Fold] | tuple[None, None]":
    try:
        from feeds.fast import _heads

        return (_heads.read, _heads.fold) if sources_hash() == _heads.SOURCES_HASH else (None, None)
    except (ImportError, OSError):
        return None, None


if isinstance(_folder := sys._xoptions.get("feeds_fast"), str):
    # Another build of the extension, with sanitizers.
    __path__.insert(0, _folder)

read, fold = _compiled()
"""`read` returns the contents of an event frame, or None: feeds/frames.py has to decode the frame.

`fold` is `protocol.trade_sums.fold` of packed trades (feeds/trades.py), or returns None: it has to decide.
"""
