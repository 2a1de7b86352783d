"""Account events, split by account for the private channels."""

import msgspec

from feeds.frames import EventHead, account_of
from protocol.codec import encode_frame
from protocol.market_data import AccountUpdate
from protocol.stream_id import StreamId
from protocol.units import AccountId


class AccountFrames:
    """The events of a batch by account, as raw bytes in the log's order."""

    def __init__(self, position: StreamId) -> None:
        self._after = position
        self._frames: dict[AccountId, list[msgspec.Raw]] = {}

    def add(self, event: EventHead, raw: msgspec.Raw) -> None:
        """Add one event, if it is an account's; `raw` are its bytes."""
        account_id = account_of(event)
        if account_id is None:
            return
        frames = self._frames.get(account_id)
        if frames is None:
            self._frames[account_id] = [raw]
        else:
            frames.append(raw)

    def take(self, position: StreamId) -> list[AccountUpdate]:
        """Return the events added since the last call, one update per account.

        `position` is the last entry's id.
        """
        frames, self._frames = self._frames, {}
        after, self._after = self._after, position
        if not frames:
            return []
        position_text, after_text = str(position), str(after)
        return [
            AccountUpdate(account_id, position_text, msgspec.Raw(encode_frame(events)), after=after_text)
            for account_id, events in frames.items()
        ]
