"""Engine workers on a log in memory that crash at any of its calls."""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

from engine_worker.core.conservation import recount
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import (
    decode_events,
    encode_commands,
)
from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    Command,
    Deposit,
    PlaceOrder,
)
from protocol.events import DepthChanged, Event, TradeExecuted
from protocol.market import MarketMap
from protocol.orders import OrderType, Side, TimeInForce
from protocol.stream_id import STREAM_START
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from runtime.settings import Settings
from stream_log.interface import StreamLog
from stream_log.memory_log import MemoryStreamLog

ACCOUNTS = (1, 2, 3, 4)


FAR_US = 4_000_000_000_000_000
"""A writer's clock that decides nothing."""


PRICE = 10_000_000


class Crash(Exception):  # noqa: N818 - it is what happens, not a mistake
    """The process is gone."""


class CrashingLog:
    """A stream log in whose calls a process may die, before or after they did their work."""

    def __init__(self, log: StreamLog) -> None:
        self._log = log
        self.crash_at = -1
        """Number of the point at which to die; each call has one before and one after it."""
        self.points = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._log, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._point()
            result = method(*arguments, **options)
            self._point()
            return result

        return call

    def _point(self) -> None:
        self.points += 1
        if self.points == self.crash_at:
            raise Crash


def memory_log() -> MemoryStreamLog:
    clock = itertools.count(1_767_225_600_000)
    return MemoryStreamLog(clock.__next__)


def market_map(shard_count: int) -> MarketMap:
    return Settings(shard_count=shard_count).market_map()


def worker(log: StreamLog, index: int, markets: MarketMap) -> Worker:
    return Worker(log, index, markets, batch_entries_max=3)


def deposits() -> list[Command]:
    return [
        Deposit(0, "test", AccountId(account_id), asset, AssetUnits(10**15), f"first {asset}")
        for account_id in ACCOUNTS
        for asset in ("USDT", "BTC", "ETH")
    ]


def trading(seed: int, count: int) -> list[Command]:
    """Orders that trade with each other, and cancels."""
    chosen = random.Random(seed)
    commands: list[Command] = []
    for number in range(count):
        account_id, market = AccountId(chosen.choice(ACCOUNTS)), chosen.choice(("BTCUSDT", "ETHUSDT"))
        if chosen.random() < 0.2:
            commands.append(
                CancelOrder(number, "test", account_id, market, OrderId(0), f"c{chosen.randrange(count)}")
            )
        elif chosen.random() < 0.05:
            commands.append(CancelAllOrders(number, "test", account_id, market))
        else:
            commands.append(
                PlaceOrder(
                    number,
                    "test",
                    account_id,
                    f"c{number}",
                    market,
                    chosen.choice((Side.BUY, Side.SELL)),
                    OrderType.LIMIT,
                    chosen.choice((TimeInForce.GTC, TimeInForce.IOC)),
                    PriceTicks(PRICE + chosen.randrange(-5, 6)),
                    QuantityLots(chosen.randrange(1_000, 9_000)),
                )
            )
    return commands


def enqueue(log: StreamLog, commands: Sequence[Command], markets: MarketMap) -> None:
    for command in commands:
        shard = markets.shard_of_account(command.account_id)
        log.append(streams.commands(shard), {COMMANDS_FIELD: encode_commands([command], FAR_US)})


def run_until_quiet(workers: Sequence[Worker]) -> None:
    while sum([each.step(block_ms=1) for each in workers]):
        pass


def all_running(log: StreamLog, markets: MarketMap) -> list[Worker]:
    """Return a worker for each shard, which knows all markets."""
    workers = [worker(log, index, markets) for index in range(markets.shard_count)]
    for each in workers:
        each.start()
    run_until_quiet(workers)
    return workers


def events_of(log: StreamLog, shard: int) -> list[Event]:
    entries = log.read({streams.events(shard): STREAM_START}, 1_000_000, block_ms=0)
    return [event for entry in entries for event in decode_events(entry.fields[EVENTS_FIELD])]


def check_contiguous(events: Sequence[Event]) -> None:
    sequences: dict[str, int] = {}
    trade_ids: dict[str, int] = {}
    for event in events:
        if isinstance(event, TradeExecuted | DepthChanged):
            assert event.sequence == sequences.get(event.market, 0) + 1
            sequences[event.market] = event.sequence
        if isinstance(event, TradeExecuted):
            assert event.trade_id == trade_ids.get(event.market, 0) + 1
            trade_ids[event.market] = event.trade_id


def settled(workers: Sequence[Worker]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for each in workers:
        each.shard.check_invariants()
        for asset, *_, moved in recount(each.shard.state):
            totals[asset] = totals.get(asset, 0) + moved
    return totals
