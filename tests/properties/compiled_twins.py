"""The compiled core beside the object core: the same entries to both, and everything that comes of them is
compared.

`python -m tests.properties.compiled_twins --commands 10000000` goes on for as long as it takes.
"""

import argparse
import itertools
import random
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from engine_worker.checksum import state_checksum
from engine_worker.core import journal
from engine_worker.cores import CORES
from engine_worker.frame_core import DeadItem, FrameCore, InvariantBroken, NotUnderstoodError
from protocol.codec import FORMAT, LaterFormatError, encode_commands, encode_frame
from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    CancelOrders,
    CloseAccount,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    LimitAccount,
    PlaceOrder,
    Tick,
    Withdraw,
)
from protocol.configuration import AccountLimits, MarketConfig, MarketStatus, ShardConfig
from protocol.market import MarketMap
from protocol.orders import OrderTerms, OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.replies import AuditQuery, BalancesQuery, ConfigQuery, OpenOrdersQuery, OrderQuery
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from protocol.windows import Windows
from tests.properties.markets import market_map
from tests.properties.sequences import ACCOUNTS, NEWCOMER, commands_of, endowment, sweeps

START_MS: Final = 1_795_000_000_000
WINDOWS: Final = Windows(request_ms=400, key_ms=900, keys_max=5, transfer_ms=1_500)
"""Short, so that outcomes are forgotten within a program."""
HASH_INTERVAL: Final = 97
HOSTILE_NAMES: Final = (
    "", "x" * 22, "x" * 23, "y" * 200, "z" * 201, "ü" * 200, "\U0001f600" * 200, "a\0b", "\n\t\"'", " ",
    "\x7f" * 31, "q" * 32,
)  # fmt: skip


class Difference(AssertionError):  # noqa: N818 - it is what is looked for
    """The cores have come apart."""


class Came(NamedTuple):
    """What came of an entry."""

    outcome: list[DeadItem] | str
    frame: bytes = b""
    replies: tuple[tuple[str, bytes], ...] = ()
    outbox: tuple[tuple[int, bytes], ...] = ()
    closed: tuple[object, ...] = ()


class Pair:
    """One shard twice."""

    def __init__(self, index: int, shard_count: int) -> None:
        self.names = ("objects", "compiled")
        self.cores: list[FrameCore] = [CORES[name].new(index, shard_count) for name in self.names]
        self.position = STREAM_START

    def apply(self, stream_id: StreamId, fields: Mapping[bytes, bytes], *, is_taken: bool = True) -> Came:
        """Apply an entry to both; return what came of it."""
        left, right = (_applied(core, stream_id, fields, is_taken=is_taken) for core in self.cores)
        for field, one, other in zip(Came._fields, left, right, strict=True):
            if one != other:
                raise Difference(f"{field} of {stream_id}: {one!r} and {other!r} of {fields!r}")
        self.compare(is_taken=is_taken)
        self.position = stream_id
        return left

    def compare(self, *, is_taken: bool) -> None:
        """Compare everything that is cheap."""
        left, right = (
            (
                core.waiting_events, core.command_count, core.order_count, core.time, core.has_work,
                core.is_configured, state_checksum(core) if is_taken else "", core.digest(),
                core.market_counts(), core.differences(), set(core.symbols), core.configuration_number,
            )
            for core in self.cores
        )  # fmt: skip
        if left != right:
            raise Difference(f"after {self.position}: {left} and {right}")

    def compare_state(self) -> None:
        """Compare snapshots and answers, and check the invariants of both."""
        snapshots = [core.encode_snapshot(self.position) for core in self.cores]
        if snapshots[0] != snapshots[1]:
            decoded = [msgspec.msgpack.decode(each[32:]) for each in snapshots]
            places = [n for n, (one, other) in enumerate(zip(*decoded, strict=True)) if one != other]
            raise Difference(
                f"snapshots after {self.position} differ in {places}: "
                f"{[[each[place] for place in places] for each in decoded]}"
            )
        answers = [core.answer(QUERIES, TimeMs(self.position.ms), self.position) for core in self.cores]
        if answers[0] != answers[1]:
            raise Difference(f"answers after {self.position}: {answers[0]} and {answers[1]}")
        configurations = [core.encode_configuration(self.position) for core in self.cores]
        if configurations[0] != configurations[1]:
            raise Difference(f"configurations after {self.position}")
        for core in self.cores:
            core.check_money()
            core.check_invariants()

    def restore(self) -> None:
        """Let each core go on from the other's snapshot."""
        snapshots = [core.encode_snapshot(self.position) for core in self.cores]
        for core in self.cores:
            core.let_go()
        for number, name in enumerate(self.names):
            self.cores[number], stream_id = CORES[name].restore(snapshots[1 - number])
            if stream_id != self.position or self.cores[number].encode_snapshot(stream_id) != snapshots[0]:
                raise Difference(f"{name} does not come back from the other's snapshot")

    def copy(self) -> "Pair":
        """Return the same shard twice, again."""
        copied = Pair.__new__(Pair)
        copied.names, copied.position = self.names, self.position
        snapshots = [core.encode_snapshot(self.position) for core in self.cores]
        copied.cores = [
            CORES[name].restore(snapshot)[0] for name, snapshot in zip(self.names, snapshots, strict=True)
        ]
        return copied

    def let_go(self) -> None:
        for core in self.cores:
            core.let_go()


QUERIES: Final = encode_frame(
    [
        *(BalancesQuery(number, "a", AccountId(number)) for number in range(8)),
        *(OpenOrdersQuery(number, "b", AccountId(number), "") for number in range(8)),
        *(OpenOrdersQuery(number, "b", AccountId(number), "FIGPLUM") for number in range(8)),
        *(
            OrderQuery(number, "a", AccountId(number % 6), market, OrderId(order_id), name)
            for number in range(40)
            for market, order_id, name in (("KIWIPLUM", 0, f"o{number}"), ("FIGPLUM", number * 100, ""))
        ),
        ConfigQuery(10, "c"),
        AuditQuery(11, "a"),
    ]
)  # fmt: skip


def _applied(core: FrameCore, stream_id: StreamId, fields: Mapping[bytes, bytes], *, is_taken: bool) -> Came:
    outcome: list[DeadItem] | str
    progress: list[int] = []
    try:
        outcome = core.apply_frame(stream_id, fields, lambda: progress.append(core.command_count))
    except (NotUnderstoodError, LaterFormatError, InvariantBroken) as error:
        outcome = f"{type(error).__name__}: {error}"
    if not is_taken:
        return Came(outcome, repr(progress).encode())
    output = core.take()
    return Came(
        outcome,
        output.frame + repr(progress).encode(),
        tuple(output.replies()),
        tuple(output.outbox().items()),
        tuple(output.closed_orders()),
    )


class Exchange:
    """All shards, each twice, and the mail between them."""

    def __init__(self, markets: MarketMap, seed: int, config: ShardConfig | None = None) -> None:
        self.markets = markets
        self.chosen = random.Random(seed)
        self.shard_count = markets.shard_count
        self.pairs = [Pair(index, self.shard_count) for index in range(self.shard_count)]
        self.mail: defaultdict[tuple[int, int], deque[bytes]] = defaultdict(deque)
        self.applied = 0
        self._clock = itertools.count(START_MS)
        self._now = START_MS
        self.config = config if config is not None else ShardConfig(windows=WINDOWS)
        for index in range(self.shard_count):
            self.commands(index, [ConfigureShard(1, "ops", self.config)])
            self.commands(
                index,
                [
                    ConfigureMarket(number, "ops", MarketConfig(market, index))
                    for number, market in enumerate(markets.markets, 10)
                    if markets.shard_of_market(market.symbol) == index
                ],
            )
        self.deliver()

    def pass_time(self, ms: int) -> None:
        self._now += ms

    def enter(self, shard: int, fields: Mapping[bytes, bytes], *, is_taken: bool = True) -> Came:
        """Append an entry to a shard's input, and let both cores apply it."""
        self._now += 1
        came = self.pairs[shard].apply(
            StreamId(self._now, self.chosen.randrange(3)), fields, is_taken=is_taken
        )
        for target, frame in came.outbox:
            self.mail[shard, target].append(frame)
        return came

    def commands(self, shard: int, commands: Sequence[Any], *, is_taken: bool = True) -> None:
        """Enter a frame of commands."""
        self.applied += len(commands)
        written_us = (self._now + self.chosen.choice((-1_500, -900, 0, 0, 0, 5))) * 1_000
        self.enter(shard, {COMMANDS_FIELD: encode_commands(commands, written_us)}, is_taken=is_taken)

    def by_shard(self, commands: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
        """Yield the commands of each shard."""
        for shard in range(self.shard_count):
            own = [each for each in commands if self.shard_of(each) == shard]
            if own:
                yield shard, own

    def shard_of(self, command: Any) -> int:
        account_id = getattr(command, "account_id", None)
        return self.markets.shard_of_account(account_id) if account_id else 0

    def deliver(self, most: int = 10**9) -> None:
        """Deliver mail; what one shard sends to another stays in order."""
        while most and (ways := sorted(way for way, frames in self.mail.items() if frames)):
            way = self.chosen.choice(ways)
            frame = self.mail[way].popleft()
            for _ in range(2 if self.chosen.random() < 0.1 else 1):
                self.enter(way[1], {MESSAGES_FIELD: frame}, is_taken=True)
            most -= 1

    def compare_states(self) -> None:
        for pair in self.pairs:
            pair.compare_state()

    def restore(self) -> None:
        for pair in self.pairs:
            pair.restore()

    def let_go(self) -> None:
        for pair in self.pairs:
            pair.let_go()


class Program:
    """Random commands of all kinds, in frames of one size."""

    def __init__(self, shard_count: int, frame_size: int, seed: int, *, with_garbage: bool = True) -> None:
        self.exchange = Exchange(market_map(shard_count), seed)
        self.chosen = random.Random(seed + 1)
        self.frame_size = frame_size
        self.with_garbage = with_garbage
        self._requests = 1_000
        self._market_versions = {market.symbol: 1 for market in self.exchange.markets.markets}
        self._shard_versions = [1] * shard_count
        self._limits: defaultdict[int, int] = defaultdict(int)
        for shard, own in self.exchange.by_shard(endowment()):
            self.exchange.commands(shard, own)

    def run(self, commands: int, state_every: int = 40, restore_every: int = 130) -> None:
        """Go on until so many commands were applied."""
        exchange, chosen = self.exchange, self.chosen
        until = exchange.applied + commands
        for turn in itertools.count(1):
            if exchange.applied >= until:
                break
            for shard, own in exchange.by_shard(self._commands()):
                exchange.commands(shard, own, is_taken=chosen.random() < 0.8)
            exchange.deliver(chosen.randrange(6))
            if chosen.random() < 0.15:
                exchange.pass_time(chosen.choice((10, 100, 500, 2_000)))
            if self.with_garbage and chosen.random() < 0.1:
                self._garbage()
            if chosen.random() < 0.1:
                self._operators()
            if turn % state_every == 0:
                for index in range(exchange.shard_count):
                    exchange.commands(index, [Tick()])  # takes what was not taken
                exchange.compare_states()
                self._clear_away()
            if turn % restore_every == 0:
                exchange.restore()
        exchange.deliver()
        for shard, own in exchange.by_shard(sweeps()):
            exchange.commands(shard, own)
        exchange.deliver()
        exchange.compare_states()

    def _commands(self) -> list[Any]:
        """Return commands for a frame of each shard."""
        chosen = self.chosen
        found: list[Any] = []
        while len(found) < self.frame_size * self.exchange.shard_count:
            octets = [chosen.randbytes(8) for _ in range(min(40, max(3, self.frame_size)))]
            found += [self._varied(self._renamed(command)) for command in commands_of(octets)]
            self._requests += chosen.choice((len(octets), len(octets), 1))
        return found

    def _renamed(self, command: Any) -> Any:
        """Return a command with names of its own, mostly: else all names would be taken soon."""
        changed: dict[str, Any] = {"request_id": self._requests + command.request_id}
        if isinstance(command, PlaceOrder | CancelOrder) and command.client_order_id and self._requests % 8:
            changed["client_order_id"] = f"{command.client_order_id}-{self._requests}"
        if getattr(command, "idempotency_key", ""):
            changed["idempotency_key"] = f"{command.idempotency_key}-{self._requests // 64}"
        if isinstance(command, Deposit | Withdraw) and self._requests % 4:
            changed["transfer_id"] = f"{command.transfer_id}-{self._requests}"
        return msgspec.structs.replace(command, **changed)

    def _clear_away(self) -> None:
        """Trade the books empty, and let everybody have something again."""
        exchange = self.exchange
        for command in (*sweeps(), *endowment()):
            self._requests += 1
            name = "client_order_id" if isinstance(command, PlaceOrder) else "transfer_id"
            own = {"request_id": self._requests, name: f"again-{self._requests}"}
            changed = msgspec.structs.replace(command, **own)
            exchange.commands(self.exchange.shard_of(changed), [changed])
        exchange.deliver()

    def _varied(self, command: Any) -> Any:
        chosen, dice = self.chosen, self.chosen.random()
        if dice < 0.01 and isinstance(command, PlaceOrder):
            return msgspec.structs.replace(command, client_order_id=chosen.choice(HOSTILE_NAMES))
        if dice < 0.015 and isinstance(command, CancelOrder):
            return msgspec.structs.replace(command, client_order_id=chosen.choice(HOSTILE_NAMES))
        if dice < 0.03:
            return msgspec.structs.replace(
                command, reply_to=chosen.choice(("", "other", "gate-" + "é" * 30, "t" * 200))
            )
        if dice < 0.04 and isinstance(command, PlaceOrder | CancelOrder | CancelAllOrders):
            deadline = TimeMs(self.exchange._now + chosen.randrange(-3, 4))
            return msgspec.structs.replace(command, deadline_ms=deadline)
        if dice < 0.05:
            return msgspec.structs.replace(
                command, request_id=chosen.choice((0, -1, 7, 2**63 - 1, self._requests))
            )
        if dice < 0.055 and isinstance(command, PlaceOrder):
            return msgspec.structs.replace(command, terms=OrderTerms(stop_price=PriceTicks(3)))
        if dice < 0.06:
            return Tick()
        return command

    def _operators(self) -> None:
        chosen, exchange = self.chosen, self.exchange
        account = AccountId(chosen.choice((*ACCOUNTS, NEWCOMER)))
        shard = exchange.markets.shard_of_account(account)
        request = self._requests = self._requests + 1
        match chosen.randrange(8):
            case 0:
                self._limits[account] += 1
                limits = AccountLimits(
                    self._limits[account],
                    chosen.random() < 0.1,
                    *(chosen.choice((0, 0, 0, 0, 9, 30)) for _ in range(3)),
                )
                exchange.commands(shard, [LimitAccount(request, "ops", account, limits)])
            case 1:
                market = chosen.choice(("", *self._market_versions))
                exchange.commands(shard, [CancelOrders(request, "ops", account, market)])
            case 2:
                exchange.commands(shard, [CloseAccount(request, "ops", account)])
                self._limits[account] = 0 if account == NEWCOMER else self._limits[account]
            case 3:
                self._configure_shard(request)
            case 4 | 5 | 6:
                self._configure_market(request)
            case _:
                symbol = chosen.choice(list(self._market_versions))
                owner = exchange.markets.shard_of_market(symbol)
                exchange.commands(owner, [CancelOrders(request, "ops", AccountId(0), symbol), Tick()])

    def _configure_shard(self, request: int) -> None:
        chosen, exchange = self.chosen, self.exchange
        shard = chosen.randrange(exchange.shard_count)
        self._shard_versions[shard] += 1
        config = msgspec.structs.replace(
            exchange.config,
            version=self._shard_versions[shard],
            maintenance_from=TimeMs(exchange._now + 500 if chosen.random() < 0.1 else 0),
            open_orders_max=chosen.choice((0, 7, 9)),
            in_flight_max=chosen.choice((0, 0, 0, 5)),
            drained_per_command=chosen.choice((1, 2, 100)),
            windows=chosen.choice((WINDOWS, WINDOWS._replace(request_ms=90, key_ms=150))),
        )
        exchange.commands(shard, [ConfigureShard(request, "ops", config)])

    def _configure_market(self, request: int) -> None:
        chosen, exchange = self.chosen, self.exchange
        market = chosen.choice(exchange.markets.markets)
        shard = exchange.markets.shard_of_market(market.symbol)
        statuses = (
            MarketStatus.HALTED,
            MarketStatus.CANCEL_ONLY,
            MarketStatus.TRADING,
            MarketStatus.TRADING,
            MarketStatus.DELISTING,
        )
        for status in (chosen.choice(statuses), MarketStatus.TRADING):
            self._market_versions[market.symbol] += 1
            changed = msgspec.structs.replace(
                market, taker_fee_ppm=chosen.choice((0, 1, 999_999)), matches_max=chosen.choice((1, 3, 2_000))
            )
            config = MarketConfig(changed, shard, status, self._market_versions[market.symbol])
            exchange.commands(shard, [ConfigureMarket(request, "ops", config)])
            request = self._requests = self._requests + 1
            for _ in range(3):
                for owner, own in exchange.by_shard(self._commands()):
                    exchange.commands(owner, own)
            if status is MarketStatus.DELISTING:
                # It ends as DELISTED by itself, which is one more version.
                for _ in range(40):
                    exchange.deliver()
                    exchange.commands(shard, [Tick()] * 3)
                self._market_versions[market.symbol] += 1

    def _garbage(self) -> None:
        """Enter what no program writes. Of messages, which are trusted, a copy of the shard gets it."""
        chosen, exchange = self.chosen, self.exchange
        for shard, own in exchange.by_shard(self._commands()[:12]):
            frame = encode_commands(own, exchange._now * 1_000)
            exchange.enter(shard, {COMMANDS_FIELD: mutilated(frame, chosen)})
            exchange.enter(shard, {COMMANDS_FIELD: odd_form(frame, chosen)})
        for (source, target), frames in list(exchange.mail.items()):
            if frames and chosen.random() < 0.3:
                pair = exchange.pairs[target].copy()
                fields = {MESSAGES_FIELD: mutilated(frames[0], chosen)}
                stream_id = StreamId(exchange._now + 1)
                outcomes = [outcome_of(core, stream_id, fields) for core in pair.cores]
                if outcomes[0] != outcomes[1]:
                    raise Difference(f"{outcomes[0]} and {outcomes[1]} of {fields} from shard {source}")
                pair.let_go()
        fields = chosen.choice(
            (
                {b"x": b"y"},
                {COMMANDS_FIELD: b"\xc1"},
                {COMMANDS_FIELD: b""},
                {COMMANDS_FIELD: encode_frame([Tick()])},
                {COMMANDS_FIELD: encode_frame((FORMAT + 1, START_MS * 1_000, []))},
                {COMMANDS_FIELD: encode_frame((FORMAT, -5, [Tick()]))},
                {COMMANDS_FIELD: encode_frame((FORMAT, 2**64 - 1, [Tick()]))},
                {MESSAGES_FIELD: encode_frame((FORMAT, START_MS * 1_000, 0, 0, 1, []))},
                {COMMANDS_FIELD: encode_frame([Tick()]), MESSAGES_FIELD: b""},
            )
        )
        exchange.enter(chosen.randrange(exchange.shard_count), fields)


def outcome_of(core: FrameCore, stream_id: StreamId, fields: Mapping[bytes, bytes]) -> object:
    """Return what becomes of an entry; of a broken invariant not its words."""
    try:
        dead = core.apply_frame(stream_id, fields)
        output = core.take()
        return (dead, output.frame, list(output.replies()), output.outbox(), core.digest())
    except NotUnderstoodError as error:
        return str(error)
    except LaterFormatError as error:
        return str(error)
    except InvariantBroken as error:
        return type(error).__name__
    except OverflowError:
        return InvariantBroken.__name__


def mutilated(frame: bytes, chosen: random.Random) -> bytes:
    """Return a frame with something wrong in it, perhaps."""
    octets = bytearray(frame)
    for _ in range(chosen.choice((1, 1, 2, 5))):
        at = chosen.randrange(len(octets))
        match chosen.randrange(5):
            case 0 | 1:
                octets[at] = chosen.randrange(256)
            case 2:
                del octets[at:]
            case 3:
                octets.insert(at, chosen.choice((0, 0x90, 0xC0, 0xC1, 0xCF, 0xD9, 0xFF)))
            case _:
                octets += b"\xc0"
        if not octets:
            break
    return bytes(octets)


def odd_form(frame: bytes, chosen: random.Random) -> bytes:
    """Return the same frame in a form that msgspec does not write: longer numbers, or a shorter tail."""
    number, written_us, commands = msgspec.msgpack.decode(frame)
    odd = bytearray(b"\x93" + encode_frame(number) + encode_frame(written_us))
    odd += b"\xdd" + len(commands).to_bytes(4, "big")
    for command in commands:
        left = len(command) - (chosen.randrange(3) if command[0] == 1 else 0)
        odd += b"\xdc" + left.to_bytes(2, "big")
        for value in command[:left]:
            if type(value) is int and chosen.random() < 0.3:
                odd += (
                    b"\xd3" + (value & (2**64 - 1)).to_bytes(8, "big")
                    if value < 2**63
                    else encode_frame(value)
                )
            elif isinstance(value, str) and chosen.random() < 0.3:
                odd += b"\xdb" + len(value.encode()).to_bytes(4, "big") + value.encode()
            else:
                odd += encode_frame(value)
    return bytes(odd)


class DeepBook:
    """Books of many levels, so that blocks are divided and joined, and what asks for sums over them."""

    def __init__(self, shard_count: int, seed: int) -> None:
        market = msgspec.structs.replace(
            market_map(1).markets[1], price_max=PriceTicks(10**6), quantity_max=QuantityLots(10**4),
            band_up_ppm=2**62, band_down_ppm=0, open_orders_max=10**6, matches_max=300,
            notional_min=AssetUnits(1), market_slippage_ppm=900_000,
        )  # fmt: skip
        self.market = market
        self.exchange = Exchange(MarketMap.of([market], shard_count), seed)
        self.chosen = random.Random(seed)
        self._number = 0
        for shard, own in self.exchange.by_shard(
            [
                Deposit(0, "test", AccountId(account), asset, AssetUnits(10**15 // 9), f"first {asset}")
                for account in ACCOUNTS
                for asset in (market.base, market.quote)
            ]
        ):
            self.exchange.commands(shard, own)

    def run(self, levels: int, questions: int) -> None:
        """Fill the book up to so many levels a side, ask and cancel, and empty it again."""
        exchange, middle = self.exchange, 500_000
        for _ in range(levels * 2 // 200):
            self._enter([self._limit(*self._resting(middle)) for _ in range(200)])
        exchange.compare_states()
        for number in range(questions):
            self._enter([self._question(middle) for _ in range(5)])
            self._enter([self._cancel() for _ in range(20)])
            if number % 10 == 0:
                self._enter([self._limit(*self._resting(middle)) for _ in range(20)])
            exchange.deliver()
        exchange.compare_states()
        exchange.restore()
        while any(core.market_counts()[self.market.symbol].resting for core in exchange.pairs[0].cores):
            taken = [self._market(Side.BUY), self._market(Side.SELL)] * 20
            self._enter([*taken, *(self._cancel() for _ in range(400))])
            exchange.deliver()
            if self.chosen.random() < 0.2:
                break
        exchange.compare_states()

    def _enter(self, commands: list[Any]) -> None:
        for shard, own in self.exchange.by_shard(commands):
            self.exchange.commands(shard, own)
        self.exchange.deliver()

    def _resting(self, middle: int) -> tuple[Side, int, int]:
        side = self.chosen.choice((Side.BUY, Side.SELL))
        away = int(self.chosen.expovariate(1 / 3_000)) + 1
        return side, middle - away if side is Side.BUY else middle + away, self.chosen.randint(1, 90)

    def _limit(self, side: Side, price: int, quantity: int, **more: Any) -> PlaceOrder:
        self._number += 1
        return PlaceOrder(
            *(self._number, "test", AccountId(self.chosen.choice(ACCOUNTS)), f"d{self._number}"),
            *(self.market.symbol, side, OrderType.LIMIT, TimeInForce.GTC),
            *(PriceTicks(max(1, price)), QuantityLots(quantity)),
            **more,
        )

    def _question(self, middle: int) -> PlaceOrder:
        chosen = self.chosen
        side, away = chosen.choice((Side.BUY, Side.SELL)), int(chosen.expovariate(1 / 9_000))
        price = middle + away if side is Side.BUY else middle - away
        quantity = int(chosen.expovariate(1 / 2_000)) + 1
        order = self._limit(side, price, min(quantity, 10**4))
        prevention = chosen.choice(list(SelfTradePrevention))
        order = msgspec.structs.replace(order, self_trade_prevention=prevention)
        dice = chosen.random()
        if dice < 0.5:
            return msgspec.structs.replace(order, time_in_force=TimeInForce.FOK)
        if dice < 0.6:
            return msgspec.structs.replace(order, time_in_force=TimeInForce.IOC, quantity=QuantityLots(30))
        order = msgspec.structs.replace(order, order_type=OrderType.MARKET, time_in_force=TimeInForce.IOC)
        if dice < 0.8:
            quote = AssetUnits(quantity * middle * self.market.quote_per_tick_lot)
            order = msgspec.structs.replace(order, quantity=QuantityLots(0), quote_quantity=quote)
        if chosen.random() < 0.5:
            needs_price = side is Side.BUY and not order.quote_quantity
            order = msgspec.structs.replace(
                order, bound_by_book=True, price=order.price if needs_price else PriceTicks(0)
            )
        return order

    def _market(self, side: Side) -> PlaceOrder:
        order = self._limit(side, 10**6 if side is Side.BUY else 1, 10**4)
        return msgspec.structs.replace(
            order, order_type=OrderType.MARKET, time_in_force=TimeInForce.IOC,
            self_trade_prevention=SelfTradePrevention.NONE,
        )  # fmt: skip

    def _cancel(self) -> CancelOrder:
        self._number += 1
        name = f"d{self.chosen.randint(1, self._number)}"
        account = AccountId(self.chosen.choice(ACCOUNTS))
        return CancelOrder(self._number, "test", account, self.market.symbol, OrderId(0), name)


def main() -> None:
    """Compare for a number of commands, in programs of all frame sizes and shard counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=20_000, help="commands of one program")
    arguments = parser.parse_args()
    journal.STATE_HASH_INTERVAL = HASH_INTERVAL  # type: ignore[misc]
    done, began = 0, time.monotonic()
    for number in itertools.count(arguments.seed):
        if done >= arguments.commands:
            break
        program = Program((1, 2, 3)[number % 3], (1, 7, 64, 500)[number % 4], number)
        program.run(arguments.each)
        done += program.exchange.applied
        program.exchange.let_go()
        sys.stdout.write(f"seed {number}: {done} commands, {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
