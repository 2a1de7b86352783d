"""Feeds answer from the log which of an account's events an edge may have missed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis

import feeds.missed_events
from protocol import streams
from protocol.codec import FORMAT, decode_readable_events, encode_frame
from protocol.market_data import Repeated, RepeatRequest
from protocol.streams import EVENTS_FIELD
from protocol.units import AccountId
from tests.support.eventually import eventually
from tests.support.market_log import deposit, frame
from tests.support.missed_events import repeats_of

OWNER = AccountId(7)
REPLY_TO = streams.repeated("test", 0)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client, repeats_of(redis_url):
        eventually("feeds listen", lambda: client.pubsub_numsub(streams.repeat(0))[0][1])
        yield client


def write(client: redis.Redis, *numbers: int) -> None:
    """Write a deposit of the owner's into the log for each number, and that it was published."""
    for number in numbers:
        client.xadd(streams.events(0), {EVENTS_FIELD: frame(deposit(number, OWNER))}, f"{number}-0")
        client.hset(streams.feeds_state(0), "published_id", f"{number}-0")


@contextmanager
def asked(client: redis.Redis, heard: int, request_id: int = 1) -> Iterator[list[Repeated]]:
    """Ask for what the owner has behind entry `heard`; give the parts of the answer."""
    with client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(REPLY_TO)
        assert channel.get_message(timeout=5) is None  # the confirmation
        request = RepeatRequest(request_id, REPLY_TO, [(OWNER, f"{heard}-0")])
        client.publish(streams.repeat(0), msgspec.msgpack.encode(request))
        parts: list[Repeated] = []

        def are_all_there() -> bool:
            message: Any = channel.get_message(timeout=1)
            if message is not None:
                parts.append(msgspec.msgpack.decode(message["data"], type=Repeated))
            return bool(parts) and parts[-1].is_last

        eventually("the last part", are_all_there)
        yield parts


def times(parts: list[Repeated]) -> list[int]:
    return [
        event.time
        for part in parts
        for _, events in part.accounts
        for event in decode_readable_events(bytes(events))
    ]


def test_what_was_published_since_is_repeated(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds.missed_events, "READ_ENTRIES", 2)
    write(client, 1, 2, 3, 4, 5)
    client.xadd(streams.events(0), {EVENTS_FIELD: frame(deposit(6, OWNER))}, "6-0")  # not published yet
    with asked(client, heard=2) as parts:
        assert times(parts) == [3, 4, 5]
        assert [(part.position, part.is_last, part.problem) for part in parts] == [
            ("4-0", False, ""),
            ("5-0", False, ""),
            ("5-0", True, ""),
        ]
    with asked(client, heard=5, request_id=2) as parts:
        assert parts == [Repeated(2, "5-0", [], True)]


def test_large_entries_come_in_smaller_parts(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis ends the connection of an edge that it has too much for."""
    monkeypatch.setattr(feeds.missed_events, "READ_ENTRIES", 2)
    monkeypatch.setattr(feeds.missed_events, "READ_BYTES", 1)
    write(client, 1, 2, 3, 4)
    with asked(client, heard=0) as parts:
        assert times(parts) == [1, 2, 3, 4]
        assert [part.position for part in parts] == ["2-0", "3-0", "4-0", "4-0"]


def test_what_the_log_has_no_more_is_said_to_be_missing(client: redis.Redis) -> None:
    write(client, 1, 2, 3)
    client.xtrim(streams.events(0), minid="3-0", approximate=False)
    with asked(client, heard=1) as parts:
        assert parts == [Repeated(1, "3-0", [], True, "the log begins later")]
    with asked(client, heard=3) as parts:
        assert parts == [Repeated(1, "3-0", [], True)]


def test_what_a_later_release_wrote_is_said_to_be_missing(client: redis.Redis) -> None:
    write(client, 1)
    later = encode_frame((FORMAT + 1, 1_767_225_500_000_000, []))
    client.xadd(streams.events(0), {EVENTS_FIELD: later}, "2-0")
    client.hset(streams.feeds_state(0), "published_id", "2-0")
    with asked(client, heard=0) as parts:
        assert parts[-1].problem.endswith("a later release wrote it")
        assert times(parts) == []


def test_nonsense_stops_nothing(client: redis.Redis) -> None:
    write(client, 1)
    for payload in (b"", b"nonsense", msgspec.msgpack.encode([1, REPLY_TO, [[OWNER, "x-y"]]])):
        client.publish(streams.repeat(0), payload)
    with asked(client, heard=0) as parts:
        assert times(parts) == [1]


def test_it_listens_again_after_it_was_cut_off(client: redis.Redis) -> None:
    write(client, 1)
    client.client_kill_filter(_type="pubsub")
    eventually("feeds listen again", lambda: client.pubsub_numsub(streams.repeat(0))[0][1])
    with asked(client, heard=0) as parts:
        assert times(parts) == [1]
