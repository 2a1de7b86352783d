# mypy: disable-error-code="arg-type, union-attr, return-value, misc, no-any-return, unused-ignore"

"""The engine and the oracle side by side: after every command the replies, the trades and the whole state
must be equal.

`python -m tests.independent.compare --commands 1000000 --seed 1 --shards 1` runs many; a difference names the
seed and what was done.
"""

import argparse
import sys
import time as clock
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from engine_worker.core.shard import Shard
from protocol.commands import CancelOrders, ConfigureMarket, Tick
from protocol.configuration import MarketStatus
from protocol.events import DepthChanged, TradeExecuted
from protocol.market import MarketMap
from protocol.orders import Side
from protocol.replies import (
    AuditQuery,
    BalancesQuery,
    ConfigQuery,
    FundsReply,
    OpenOrdersQuery,
    OrderReply,
    Refused,
    Reply,
)
from tests.independent.generator import ACCOUNTS, Generator
from tests.independent.oracle import Account, Oracle

EPISODE: Final = 400
"""Commands of one exchange; then a fresh one begins."""


class Difference(AssertionError):  # noqa: N818  # it is what the comparison finds
    """The engine and the oracle do not say the same."""


class Engine:
    """The shards of one exchange, with messages that take no time."""

    def __init__(self, shard_count: int, make: Callable[[int, MarketMap], Shard] = Shard) -> None:
        market_map = MarketMap.placed([], shard_count)
        self.shards = [make(index, market_map) for index in range(shard_count)]
        self.sequences: dict[str, int] = {}
        self.depth: dict[str, dict[tuple[Side, int], int]] = {}

    def apply(
        self, command: Any, shard: int, time: int
    ) -> tuple[list[tuple[str, Reply]], list[TradeExecuted]]:
        """Apply a command and all that follows from it; return replies and trades."""
        waiting: list[tuple[int, Any]] = [(shard, command)]
        replies: list[tuple[str, Reply]] = []
        trades: list[TradeExecuted] = []
        while waiting:
            target, message = waiting.pop(0)
            self.shards[target].apply(message, time)  # type: ignore[arg-type]
            output = self.shards[target].take()
            replies += output.replies
            for event in output.events:
                if isinstance(event, TradeExecuted | DepthChanged):
                    self.follow(event)
                if isinstance(event, TradeExecuted):
                    trades.append(event)
            waiting += [(to, sent) for to, _, sent in output.outbox]
        return replies, trades

    def follow(self, event: TradeExecuted | DepthChanged) -> None:
        """Keep a market's public state from its events, as a client would."""
        expected = self.sequences.get(event.market, 0) + 1
        if event.sequence != expected:
            raise Difference(f"{event.market}: event {event.sequence} comes where {expected} should")
        self.sequences[event.market] = expected
        if isinstance(event, DepthChanged):
            levels = self.depth.setdefault(event.market, {})
            for change in event.changes:
                levels[change.side, change.price] = change.quantity
                if not change.quantity:
                    del levels[change.side, change.price]


class Comparison:
    """One history on both."""

    def __init__(self, seed: str, shard_count: int, make: Callable[[int, MarketMap], Shard] = Shard) -> None:
        self.seed, self.count = seed, shard_count
        self.generator = Generator(seed, shard_count)
        self.engine, self.oracle = Engine(shard_count, make), Oracle(shard_count)
        self.outcomes: Counter[str] = Counter()
        self.history: list[Any] = []

    def run(self, commands: int) -> None:
        """Apply so many commands.

        Raises:
            Difference: naming what differs, behind the last commands.
        """
        for _ in range(commands):
            try:
                self.step()
            except Difference as difference:
                told = "\n".join(f"  {line}" for line in self.history[-8:])
                raise Difference(
                    f"seed {self.seed!r}, {self.count} shards, command "
                    f"{len(self.history)}:\n{told}\n{difference}"
                ) from None

    def step(self) -> None:
        """Apply one command to both, and compare."""
        command, shard, time = self.generator.next()
        self.history.append((time, shard, command))
        try:
            replies, trades = self.engine.apply(command, shard, time)
        except AssertionError:
            raise
        except Exception as error:
            self.oracle.apply(command, shard, time)
            raise Difference(f"the engine broke: {type(error).__name__}: {error}") from error
        expected = self.oracle.apply(command, shard, time)
        same(
            "replies",
            [(to, reply) for to, reply in replies if to],
            [(command.reply_to, expected)] if command.reply_to else [],
        )
        self.outcomes[
            f"{type(command).__name__} {expected.reason.name if isinstance(expected, Refused) else 'done'}"
        ] += 1
        if isinstance(expected, OrderReply):
            order = expected.order
            self.generator.learn(order.order_id, order.account_id, order.market)
        told = [
            (
                trade.market, trade.trade_id, trade.aggregate_id, trade.price, trade.quantity,
                trade.taker_side,
                trade.maker_order_id, trade.taker_order_id, trade.maker_account_id, trade.taker_account_id,
            )
            for trade in trades
        ]  # fmt: skip
        same("trades", told, self.oracle.trades)
        is_drained = isinstance(command, CancelOrders) or (
            isinstance(command, ConfigureMarket) and command.config.status is MarketStatus.DELISTING
        )
        if is_drained:
            self.drain(time)
        self.compare(time)

    def drain(self, time: int) -> None:
        """Let the shards cancel what they have begun to cancel."""
        for _ in range(200):
            before = [dict(self.engine.sequences)]
            for shard in range(self.count):
                self.engine.apply(Tick(), shard, time)
            if before == [self.engine.sequences]:
                return

    def compare(self, time: int) -> None:
        """Compare the whole state."""
        oracle = self.oracle
        markets = {symbol: book.config for symbol, book in oracle.books.items()}
        open_orders = [0] * self.count
        for account_id in (*ACCOUNTS, 6):
            account = oracle.accounts.get(account_id) or Account()
            shard = self.engine.shards[account_id % self.count]
            _, funds = shard.answer(BalancesQuery(1, "q", account_id), time)  # type: ignore[arg-type]
            assert isinstance(funds, FundsReply)
            assets = account.available.keys() | account.held.keys()
            rows = [account.balance(asset) for asset in sorted(assets)]
            expected = [row for row in rows if row.available or row.held]
            got = [row for row in funds.balances if row.available or row.held]
            same(f"balances of {account_id}", sorted(got, key=lambda row: row.asset), expected)
            same(f"limits of {account_id}", funds.limits, account.limits)
            _, orders = shard.answer(OpenOrdersQuery(1, "q", account_id), time)  # type: ignore[arg-type]
            same(
                f"orders of {account_id}",
                list(orders.orders),
                [order.state() for order in account.orders.values()],
            )  # type: ignore[union-attr]
            open_orders[account_id % self.count] += len(account.orders)
        for symbol, book in oracle.books.items():
            bids, asks = book.levels(Side.BUY), book.levels(Side.SELL)
            depth = self.engine.shards[book.config.shard].depth(symbol)
            same(
                f"book of {symbol}",
                (depth.bids, depth.asks, depth.sequence),
                (bids, asks, self.engine.sequences.get(symbol, 0)),
            )
            levels = {(Side.BUY, price): quantity for price, quantity in bids}
            levels |= {(Side.SELL, price): quantity for price, quantity in asks}
            same(f"followed book of {symbol}", self.engine.depth.get(symbol, {}), levels)
        total = 0
        for number, shard in enumerate(self.engine.shards):
            _, config = shard.answer(ConfigQuery(1, "q"), time)  # type: ignore[arg-type]
            same(f"configuration of shard {number}", config.shard, oracle.places[number].config)  # type: ignore[union-attr]
            same(f"markets of shard {number}", {one.market.symbol: one for one in config.markets}, markets)  # type: ignore[union-attr]
            _, audit = shard.answer(AuditQuery(1, "q"), time)  # type: ignore[arg-type]
            same(
                f"audit of shard {number}",
                {row[0]: row[1:] for row in audit.rows if any(row[1:])},
                self.audit(number),
            )  # type: ignore[union-attr]
            same(f"open orders of shard {number}", audit.open_orders, open_orders[number])  # type: ignore[union-attr]
            total += sum(row[6] for row in audit.rows)  # type: ignore[union-attr]
        same("settled over all shards", total, 0)

    def audit(self, number: int) -> dict[str, tuple[int, ...]]:
        """Return the oracle's books of money of a shard, added up anew."""
        place = self.oracle.places[number]
        rows = {}
        accounts = [
            account
            for account_id, account in self.oracle.accounts.items()
            if account_id % self.count == number
        ]
        for asset in {of.symbol for book in self.oracle.books.values() for of in book.market.assets}:
            row = (
                sum(account.available.get(asset, 0) for account in accounts),
                sum(account.held.get(asset, 0) for account in accounts),
                place.fees.get(asset, 0),
                place.deposited.get(asset, 0),
                place.withdrawn.get(asset, 0),
                place.settled.get(asset, 0),
            )
            same(f"the oracle's own sum of {asset}", sum(row[:3]), row[3] - row[4] + row[5])
            if any(row):
                rows[asset] = row
        return rows


def same(what: str, got: object, expected: object) -> None:
    """Raise when the engine says something else than the oracle."""
    if got != expected:
        raise Difference(f"{what}:\n  engine {got}\n  oracle {expected}")


def compare_many(
    commands: int,
    seed: str,
    shard_count: int,
    episode: int = EPISODE,
    told: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Compare so many commands, on a fresh exchange for every `episode` of them.

    Return how often which outcome came.

    Raises:
        Difference: the first one.
    """
    outcomes: Counter[str] = Counter()
    done = 0
    while done < commands:
        comparison = Comparison(f"{seed}/{done}", shard_count)
        comparison.run(min(episode, commands - done))
        outcomes += comparison.outcomes
        done += len(comparison.history)
        if told:
            told(done)
    return outcomes


def main() -> None:
    """Run as many commands as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--episode", type=int, default=EPISODE)
    arguments = parser.parse_args()
    began = clock.monotonic()
    told = [0]

    def tell(done: int) -> None:
        if done // 20_000 > told[0]:
            told[0] = done // 20_000
            rate = done / (clock.monotonic() - began)
            sys.stderr.write(f"{done:,} commands, {rate:,.0f} per second\n")

    outcomes = compare_many(arguments.commands, arguments.seed, arguments.shards, arguments.episode, tell)
    for outcome, number in sorted(outcomes.items()):
        sys.stdout.write(f"{number:>9,}  {outcome}\n")
    sys.stdout.write(f"{arguments.commands:,} commands on {arguments.shards} shards: no difference\n")


if __name__ == "__main__":
    main()
