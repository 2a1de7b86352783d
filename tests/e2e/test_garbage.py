"""Garbage in the streams: it goes to the dead letters with its bytes, and nothing stops."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from lab.simulation.undecodable_frames import BROKEN_TEXT, DEEP
from protocol import streams
from tests.support.api import Api, new_account
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange

GARBAGE = [
    b"garbage",
    b"\xc1",
    b"\x91\x93\xff\x00\x01",
    b"",
    b"\x92\x01\x02",
    b"{}" * 1_000,
    *BROKEN_TEXT,
    *DEEP,
]


LOGS = [
    (streams.commands, streams.COMMANDS_FIELD),
    (streams.commands, streams.MESSAGES_FIELD),
    (streams.commands, b"nothing"),
    (streams.events, streams.EVENTS_FIELD),
    (streams.events, b"nothing"),
]


@pytest.mark.parametrize(("stream", "field"), LOGS)
def test_garbage_becomes_dead_letters(
    exchange: RunningExchange, stream: Callable[[int], str], field: bytes
) -> None:
    before = pids(exchange)
    with redis.Redis.from_url(exchange.settings.resolved_redis_url()) as client:
        name = stream(0)
        # Feeds read the heads of events only; what is broken behind them is a dead letter of the ingest.
        garbage = [
            payload for payload in GARBAGE if field != streams.EVENTS_FIELD or payload != BROKEN_TEXT[2]
        ]
        ids = {append(client, name, field, payload) for payload in garbage}

        def dead() -> bool:
            letters = [fields for _, fields in client.xrange(streams.dead_letters(0))]
            return ids <= {fields[b"id"] for fields in letters if fields[b"source"] == name.encode()}

        eventually(f"dead letters of {name}", dead)
    everything_goes_on(exchange, before)


def test_garbage_among_the_queries_stops_nothing(exchange: RunningExchange) -> None:
    # A query is no part of the log, but what cannot be read is buried all the same (see test_safety_nets.py).
    before = pids(exchange)
    with redis.Redis.from_url(exchange.settings.resolved_redis_url()) as client:
        for payload in GARBAGE:
            append(client, streams.queries(0), streams.QUERIES_FIELD, payload)
            append(client, streams.queries(0), b"nothing", payload)
    everything_goes_on(exchange, before)


def append(client: redis.Redis, name: str, field: bytes, payload: bytes) -> bytes:
    """Append an entry right behind the newest one: between two entries of whoever owns the stream."""

    def appended() -> object:
        newest: Any = client.xrevrange(name, count=1)
        milliseconds, _, number = newest[0][0].partition(b"-") if newest else (b"1", b"-", b"0")
        try:
            return client.xadd(name, {field: payload}, id=b"%s-%d" % (milliseconds, int(number) + 1))
        except redis.ResponseError:
            return None

    stream_id = eventually(f"an entry in {name}", appended)
    assert isinstance(stream_id, bytes)
    return stream_id


def pids(exchange: RunningExchange) -> dict[str, int]:
    return {each.name: each.pid for each in exchange.processes()}


def everything_goes_on(exchange: RunningExchange, before: dict[str, int]) -> None:
    account = new_account(exchange.url, USDT="10000")
    order = account.order("SOLUSDT", "BUY", "MARKET", quantity="1")
    assert order["status"] == "FILLED"
    last_id = order["fills"][-1]["tradeId"]
    eventually("the trade in the feeds", lambda: newest_trade(account) >= last_id)
    eventually("the trade in the database", lambda: len(account.my_trades("SOLUSDT")) == len(order["fills"]))
    assert pids(exchange) == before


def newest_trade(api: Api) -> int:
    """Return the id of the newest public trade."""
    return int(api.get("/api/v3/trades", symbol="SOLUSDT", limit=1)[-1]["id"])
