"""Updates for a slow client: every trade and own event, but only the newest state and merged depth. Pure.

An update is encoded once for all its subscribers; only a slow client's own merged updates are encoded
separately.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

import msgspec
from websockets.frames import Frame, Opcode

from protocol.depth import joined
from protocol.market import Market
from protocol.market_data import DepthDiff
from ws_edge.payloads import depth_update

_encode: Final = msgspec.json.Encoder().encode
_LEVEL_BYTES: Final = 50
"""Approximate size of a level of a depth update on the wire."""


class Conflation(Enum):
    """How the waiting updates of a slow client are combined."""

    NONE = auto()
    """Every update is sent."""
    NEWEST = auto()
    """Only the newest update is sent."""
    MERGED = auto()
    """Depth updates are merged into one."""


def text_frame(payload: bytes) -> bytes:
    """Return the WebSocket frame of a JSON text; a server's frames are the same for every client."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


class Update:
    """An update of one stream. `render` returns the payload for a time scale."""

    __slots__ = ("_frames", "_render", "conflation", "diff", "stream")

    def __init__(
        self, stream: str, render: Callable[[int], Any], conflation: Conflation = Conflation.NONE
    ) -> None:
        self.stream = stream
        self.conflation = conflation
        self.diff: tuple[Market, DepthDiff] | None = None
        self._render = render
        self._frames: dict[tuple[bool, int], bytes] = {}

    @classmethod
    def of_depth(cls, stream: str, market: Market, diff: DepthDiff) -> "Update":
        """Return a depth update."""
        update = cls(stream, lambda time_scale: depth_update(market, diff, time_scale), Conflation.MERGED)
        update.diff = (market, diff)
        return update

    def payload(self, time_scale: int) -> bytes:
        """Return the JSON text."""
        return _encode(self._render(time_scale))

    def frame(self, form: tuple[bool, int]) -> bytes:
        """Return the frame in a form: (combined, time scale)."""
        frame = self._frames.get(form)
        if frame is None:
            payload = self.payload(form[1])
            if form[0]:
                payload = b'{"stream":%b,"data":%b}' % (_encode(self.stream), payload)
            frame = self._frames[form] = text_frame(payload)
        return frame


class Pending:
    """The pending updates of one slow client."""

    def __init__(self) -> None:
        self.size = 0
        """Their approximate size in bytes."""
        self._frames: list[bytes] = []
        self._latest: dict[str, Update] = {}

    def __bool__(self) -> bool:
        return bool(self._frames or self._latest)

    def add_frame(self, frame: bytes) -> None:
        """Add a frame that must be sent."""
        self._frames.append(frame)
        self.size += len(frame)

    def add(self, update: Update, form: tuple[bool, int]) -> bool:
        """Add an update; return whether it replaced an earlier one."""
        earlier = self._latest.pop(update.stream, None)
        if earlier is not None:
            self.size -= _size(earlier)
        if update.conflation is Conflation.NONE:
            # The waiting update of the same stream is an earlier state of it, for example the last one of a
            # candle.
            self.add_frame(update.frame(form))
            return earlier is not None
        if earlier is not None and earlier.diff is not None and update.diff is not None:
            market, diff = update.diff
            update = Update.of_depth(update.stream, market, joined((earlier.diff[1], diff)))
        self._latest[update.stream] = update
        self.size += _size(update)
        return earlier is not None

    def take(self, form: tuple[bool, int]) -> list[bytes]:
        """Return and remove the pending frames."""
        frames = [*self._frames, *(update.frame(form) for update in self._latest.values())]
        self._frames, self._latest, self.size = [], {}, 0
        return frames


def _size(update: Update) -> int:
    if update.diff is None:
        return 10 * _LEVEL_BYTES
    return _LEVEL_BYTES * (4 + len(update.diff[1].bids) + len(update.diff[1].asks))
