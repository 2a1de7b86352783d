"""Account events, split by account for the private channels."""

import msgspec

from feeds.frames import EventHead, account_of
from protocol.codec import encode_frame, frame_of_items
from protocol.market_data import AccountUpdate
from protocol.stream_id import StreamId
from protocol.units import AccountId


class AccountFrames:
    """The events of a batch by account, as raw bytes in the log's order."""

    def __init__(self, position: StreamId) -> None:
        self._after = position
        self._frames: dict[AccountId, list[msgspec.Raw | bytes]] = {}
        """Account -> encodings of its events; one item may hold several of them."""
        self._joined: dict[AccountId, int] = {}
        """Account with such items -> number of its events beyond the number of items."""

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

    def add_joined(self, account_id: AccountId, count: int, events: bytes) -> None:
        """Add `count` events of an account; `events` are their encodings, concatenated."""
        frames = self._frames.get(account_id)
        if frames is None:
            self._frames[account_id] = [events]
        else:
            frames.append(events)
        self._joined[account_id] = self._joined.get(account_id, 0) + count - 1

    def take(self, position: StreamId) -> list[AccountUpdate]:
        """Return the events added since the last call, one update per account.

        `position` is the last entry's id.
        """
        frames, self._frames = self._frames, {}
        joined, self._joined = self._joined, {}
        after, self._after = self._after, position
        if not frames:
            return []
        position_text, after_text = str(position), str(after)
        return [
            AccountUpdate(
                account_id,
                position_text,
                msgspec.Raw(
                    frame_of_items(len(events) + joined[account_id], events)
                    if account_id in joined
                    else encode_frame(events)
                ),
                after=after_text,
            )
            for account_id, events in frames.items()
        ]
