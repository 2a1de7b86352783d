"""Poison in every stream under load, and what `exchange audit`, `replay` and `dead` say of the exchange
afterwards."""

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from protocol import streams
from protocol.codec import decode_replies, encode_frame, encode_messages
from protocol.commands import CancelAllOrders, Command, Deposit, MatchOrder, MessageFrame, PlaceOrder
from protocol.events import TradeExecuted
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.replies import BalancesQuery
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD, MESSAGES_FIELD, QUERIES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId
from stream_log.redis_log import RedisStreamLog
from tests.support.api import POLL_S
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange
from tests.support.treasury import signed

pytestmark = pytest.mark.shard_counts(3)

COMMANDS = 6_000
FRAME = 4
GARBAGE_SHARE = 0.01
FIRST_ACCOUNT = 9_000_000
ACCOUNTS = 12
BURIED_S = 90

ABSURD_ORDER = PlaceOrder(
    1, "poison", AccountId(1), "c", "BTCUSDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(1),
        QuantityLots(1)
)  # fmt: skip


def poison(shard: int, shard_count: int, folder: Path) -> dict[str, list[dict[bytes, bytes]]]:
    """Return garbage for each of a shard's streams: noise, wrong types, and frames that decode but mean
    nothing."""
    account = AccountId(shard + shard_count)
    deposit = Deposit(1, "poison", account, "USDT", AssetUnits(2**64 - 1), "t")
    half = Deposit(1, "poison", account, "USDT", AssetUnits(7), "half")
    source = (shard + 1) % shard_count
    message = MatchOrder(
        OrderId(1), AccountId(-1), "NOSUCH", Side.BUY, OrderType.LIMIT, TimeInForce.GTC, PriceTicks(1),
        QuantityLots(1), AssetUnits(0), False, SelfTradePrevention.NONE,
    )  # fmt: skip
    nothing = encode_frame([CancelAllOrders(1, "poison", account, "BTCUSDT")])
    noise = [b"garbage", b"\xc1", b"", b"{}" * 500, b"\x92\x01\x02"]
    trade = TradeExecuted(
        TimeMs(1), "NOSUCH", Sequence(1), TradeId(2**64 - 1), 1, PriceTicks(1), QuantityLots(1), Side.BUY,
        OrderId(1), OrderId(2),
        AccountId(1), AccountId(2),
    )  # fmt: skip
    return {
        streams.commands(shard): [
            *({field: each} for each in noise for field in (COMMANDS_FIELD, MESSAGES_FIELD, b"nothing")),
            {COMMANDS_FIELD: nothing, MESSAGES_FIELD: b"both"},
            {COMMANDS_FIELD: encode_frame([deposit])},
            {
                COMMANDS_FIELD: encode_frame(
                    [Deposit(1, "poison", AccountId(-account), "USDT", AssetUnits(1), "t")]
                )
            },
            {COMMANDS_FIELD: encode_frame([Deposit(1, "poison", account, "USDT", AssetUnits(1), "\0")])},
            {COMMANDS_FIELD: encode_frame([Deposit(1, "x" * 10_000, account, "USDT", AssetUnits(1), "t")])},
            # Half of it is all right, and applied.
            {COMMANDS_FIELD: encode_frame([*signed(folder, shard, [half]), deposit])},
            {MESSAGES_FIELD: encode_messages(MessageFrame(source, shard, 0, (message,)))},
            # Of another shard it would halt this one: see alone/test_skip.py.
            {MESSAGES_FIELD: encode_messages(MessageFrame(shard, shard, 1, (message,)))},
            {MESSAGES_FIELD: encode_messages(MessageFrame(99, shard, 1, ()))},
        ],
        streams.queries(shard): [
            *({field: each} for each in noise for field in (QUERIES_FIELD, b"nothing")),
            {QUERIES_FIELD: encode_frame([[99, 1]])},
        ],
        streams.events(shard): [
            *({field: each} for each in noise for field in (EVENTS_FIELD, b"nothing")),
            {EVENTS_FIELD: encode_frame([trade])},
        ],
        streams.outbox(shard): [
            *({field: each} for each in noise for field in (b"0", b"99", b"nothing")),
            {b"0": encode_messages(MessageFrame(source + 5, 0, 1, ()))},
        ],
    }


@contextmanager
def trading(exchange: RunningExchange) -> Iterator[list[int]]:
    """Trade through the streams as fast as it goes, and yield a count that grows."""
    shard_count = exchange.settings.shard_count
    chosen, done, stop = random.Random(3), [0], threading.Event()
    failures: list[BaseException] = []

    def trade() -> None:
        with redis.Redis.from_url(exchange.settings.resolved_redis_url()) as client:
            append(client, [
                Deposit(0, "load", AccountId(FIRST_ACCOUNT + number), asset, AssetUnits(10**15),
                    f"first {asset}")
                for number in range(ACCOUNTS)
                for asset in ("USDT", "BTC")
            ])  # fmt: skip
            for number in range(0, COMMANDS, FRAME):
                if stop.is_set():
                    return
                append(client, [order(chosen, number + each) for each in range(FRAME)])
                done[0] += FRAME

    def append(client: redis.Redis, commands: list[Command]) -> None:
        for shard in range(shard_count):
            frame = [command for command in commands if command.account_id % shard_count == shard]
            if frame:
                said = signed(exchange.settings.data_dir, shard, frame)
                client.xadd(streams.commands(shard), {COMMANDS_FIELD: encode_frame(said)})

    def run() -> None:
        try:
            trade()
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
        thread.join()
    finally:
        stop.set()
        thread.join()
    assert not failures


def order(chosen: random.Random, number: int) -> Command:
    return PlaceOrder(
        number,
        "load",
        AccountId(FIRST_ACCOUNT + chosen.randrange(ACCOUNTS)),
        f"load-{number}",
        "BTCUSDT",
        chosen.choice((Side.BUY, Side.SELL)),
        OrderType.LIMIT,
        TimeInForce.IOC if number % 3 else TimeInForce.GTC,
        PriceTicks(10_000_000 + chosen.randrange(-500, 500)),
        QuantityLots(chosen.randrange(1_000, 3_000)),
    )


def test_one_percent_garbage_in_every_stream_all_of_it_is_buried_and_nothing_stops(
    exchange: RunningExchange,
) -> None:
    shard_count = exchange.settings.shard_count
    before = {each.name: (each.pid, each.restarts) for each in exchange.processes()}
    buried: dict[int, set[tuple[bytes, bytes]]] = {shard: set() for shard in range(shard_count)}
    with redis.Redis.from_url(exchange.settings.resolved_redis_url()) as client, trading(exchange) as done:
        kinds = {
            name: itertools.cycle(garbage)
            for shard in range(shard_count)
            for name, garbage in poison(shard, shard_count, exchange.settings.data_dir).items()
        }
        count = int(COMMANDS / FRAME * GARBAGE_SHARE)
        for number in range(max(count, 30)):
            eventually(
                "some trading",
                lambda number=number: done[0] >= number * COMMANDS / max(count, 30) * 0.9,  # type: ignore[misc]
            )
            for name, garbage in kinds.items():
                stream_id: Any = client.xadd(name, next(garbage))
                buried[int(name.partition("{")[2].partition("}")[0])].add((name.encode(), stream_id))
        for shard, expected in buried.items():
            # A query is heard only by a worker that was there; all were.
            def missing(
                shard: int = shard, expected: set[tuple[bytes, bytes]] = expected
            ) -> set[tuple[bytes, bytes]]:
                letters: Any = client.xrange(streams.dead_letters(shard))
                return expected - {(fields[b"source"], fields[b"id"]) for _, fields in letters}

            # The last look is the assertion, so that a failure names what is missing.
            deadline = time.monotonic() + BURIED_S
            while missing() and time.monotonic() < deadline:
                time.sleep(POLL_S)
            assert not missing(), f"of {len(expected)} not buried, shard {shard}"
    assert {each.name: (each.pid, each.restarts) for each in exchange.processes()} == before
    # Of an entry whose second half was absurd the first was applied, and once.
    with redis.Redis.from_url(exchange.settings.resolved_redis_url()) as client:
        assert balance_of_poisoned(client, shard_count) == 7 * shard_count

    listed = exchange.command("dead", "--limit", "1000")
    assert listed["count"] >= sum(map(len, buried.values()))
    found = {(each["where"], each["stream_id"]) for each in listed["letters"]}
    for expected in buried.values():
        assert {(source.decode(), stream_id.decode()) for source, stream_id in expected} <= found
    events = {
        stream_id for each in buried.values() for source, stream_id in each if source.startswith(b"ev:")
    }
    eventually("the database's dead events", lambda: events <= {
        each["stream_id"].encode()
        for each in exchange.command("dead", "--limit", "1000")["letters"]
        if each["where"] == "dead_events"
    }, timeout_s=60)  # fmt: skip
    assert all(
        each["payload"] is None and each["reason"] and each["age_s"] >= 0 for each in listed["letters"]
    )
    assert {each["size"] for each in listed["letters"]} > {0}


def balance_of_poisoned(client: redis.Redis, shard_count: int) -> int:
    total = 0
    with client.pubsub(ignore_subscribe_messages=True) as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(streams.replies("poison-test"))
        for shard in range(shard_count):
            query = BalancesQuery(shard, "poison-test", AccountId(shard + shard_count))
            client.xadd(streams.queries(shard), {QUERIES_FIELD: encode_frame([query])})
        answered = 0
        while answered < shard_count:
            message = eventually("an answer", lambda: listener.get_message(timeout=1))
            for reply in decode_replies(message["data"]):
                answered += 1
                total += sum(balance.available + balance.held for balance in getattr(reply, "balances", ()))
    return total


def run(exchange: RunningExchange, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**exchange.environment, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_replay_of_the_running_exchange_is_the_same(exchange: RunningExchange) -> None:
    shard_count = exchange.settings.shard_count
    with trading(exchange) as done:
        eventually("some trading", lambda: done[0] > COMMANDS / 2, timeout_s=90)
        reports = exchange.command("replay", "--verify")
        log = RedisStreamLog.connect(exchange.settings.resolved_redis_url())
        snapshot_s = 3 * exchange.settings.snapshot_interval_s
        eventually("snapshots", lambda: all(map(log.saved_snapshots, range(shard_count))), snapshot_s)
    again = exchange.command("replay", "--verify", "--from-snapshot")
    assert len(reports) == len(again) == shard_count
    assert all(report["same"] and report["asked_the_shard"] for report in reports + again)
    assert sum(report["verdict"]["commands"] for report in reports) > 0
    told = run(exchange, "replay", "--verify", "--shard", "0")
    assert told.returncode == 0, told.stderr
    assert "the same" in told.stdout
    assert run(exchange, "replay", "--verify", "--shard", "77").returncode == 2


def test_the_audit_adds_up_and_notices_a_ledger_that_does_not(exchange: RunningExchange) -> None:
    found = exchange.command("audit", "--timeout", "30")
    assert found["ok"]
    assert not found["problems"]
    assert {each["asset"] for each in found["audit"]["assets"]} >= {"BTC", "USDT"}
    assert all(each["settled"] == 0 for each in found["audit"]["assets"])
    assert [each["ledger_is_same"] for each in found["audit"]["shards"]] == [
        True
    ] * exchange.settings.shard_count
    with psycopg.connect(exchange.settings.resolved_database_url(), autocommit=True) as connection:
        key = connection.execute(
            "SELECT shard, stream_id, event, entry FROM ledger_entries WHERE account_id = -3 AND asset = "
            "'USDT' LIMIT 1"
        ).fetchone()
        assert key is not None
        change = (
            "UPDATE ledger_entries SET amount = amount + %s WHERE shard = %s AND stream_id = %s AND event = "
            "%s AND entry = %s"
        )
        connection.execute(change, (5, *key))
        try:
            told = run(exchange, "audit", "--timeout", "30")
        finally:
            connection.execute(change, (-5, *key))
    assert told.returncode == 1
    output = " ".join(told.stdout.split())
    assert "deposits - withdrawals of USDT" in output
    assert "-0.00000005 (-5 units)" in output
    assert exchange.command("audit", "--timeout", "30")["ok"]
