"""Garbage in the streams: it goes to the dead letters with its bytes, and nothing stops."""

import pytest
import redis

from protocol import streams
from tests.e2e.api import Api, eventually, new_account
from tests.e2e.running import RunningExchange

GARBAGE = [b"garbage", b"\xc1", b"\x91\x93\xff\x00\x01", b"", b"\x92\x01\x02", b"{}" * 1_000]


@pytest.mark.parametrize(
    ("stream", "field"),
    [
        (streams.commands, streams.COMMANDS_FIELD),
        (streams.commands, streams.MESSAGES_FIELD),
        (streams.commands, b"nothing"),
        (streams.queries, streams.QUERIES_FIELD),
        (streams.queries, b"nothing"),
        (streams.events, streams.EVENTS_FIELD),
        (streams.events, b"nothing"),
    ],
)
def test_garbage_becomes_dead_letters(exchange: RunningExchange, stream: object, field: bytes) -> None:
    assert callable(stream)
    before = {each["name"]: each["pid"] for each in exchange.processes()}
    with redis.Redis.from_url(exchange.settings.resolved_redis_url()) as client:
        name = stream(0)
        ids = {client.xadd(name, {field: payload}).decode() for payload in GARBAGE}

        def dead() -> bool:
            rows = client.xrange(streams.dead_letters(0))
            return ids <= {fields[b"id"].decode() for _, fields in rows if fields[b"source"].decode() == name}

        eventually(f"dead letters of {name}", dead)

    account = new_account(exchange.url, USDT="10000")
    order = account.order("SOLUSDT", "BUY", "MARKET", quantity="1")
    assert order["status"] == "FILLED"
    last_id = order["fills"][-1]["tradeId"]
    eventually("the trade in the feeds", lambda: newest_trade(account) >= last_id)
    eventually("the trade in the database", lambda: len(account.my_trades("SOLUSDT")) == len(order["fills"]))
    assert {each["name"]: each["pid"] for each in exchange.processes()} == before


def newest_trade(api: Api) -> int:
    """Return the id of the newest public trade."""
    return int(api.get("/api/v3/trades", symbol="SOLUSDT", limit=1)[-1]["id"])
