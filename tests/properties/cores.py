"""One recorded input of three shards, and everything that a core makes of it as bytes: the contract of
`FrameCore`.

`python -m tests.properties.cores` writes the golden hashes anew, after a change that is meant to change
bytes.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine_worker.checksum import state_checksum
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import encode_snapshot
from engine_worker.entries import apply_entry
from engine_worker.first_configuration import first_configuration
from engine_worker.frame_core import Cores, DeadItem, FrameCore, InvariantBroken, NotUnderstoodError
from engine_worker.unstored_orders import closed_orders
from protocol import streams
from protocol.codec import (
    FORMAT,
    LaterFormatError,
    decode_events,
    decode_queries,
    encode_commands,
    encode_frame,
    encode_messages,
    encode_skip,
)
from protocol.commands import (
    CancelOrders,
    CloseAccount,
    ConfigureMarket,
    LimitAccount,
    MessageFrame,
    PlaceOrder,
    SkipEntry,
    Tick,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import AccountLimits, MarketConfig, MarketStatus
from protocol.orders import OrderType, Side, TimeInForce
from protocol.replies import AuditQuery, AuditReply, BalancesQuery, ConfigQuery, OpenOrdersQuery, OrderQuery
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots, TimeMs
from stream_log.interface import Entry, as_skipped
from tests.support.workers import PRICE, deposits, market_map, trading

SHARDS = 3
MARKETS = market_map(SHARDS)
START_MS = 1_795_000_000_000
GOLDEN = Path(__file__).with_name("cores_golden.json")


class Step(NamedTuple):
    """An entry of a shard's input, after which everything is taken when `is_taken`."""

    shard: int
    stream_id: StreamId
    fields: dict[bytes, bytes]
    is_taken: bool


class Made(NamedTuple):
    """What came of a step, as bytes and plain values; nothing was taken yet when `frame` is None."""

    dead: list[DeadItem] | str
    """Or why the entry was not applied."""
    frame: bytes | None = None
    replies: tuple[tuple[str, bytes], ...] = ()
    outbox: tuple[tuple[int, bytes], ...] = ()
    checksum: str = ""
    digest: str = ""


class Reference:
    """A shard without frames, with the grouping written out: what every core must be the same as."""

    def __init__(self, index: int) -> None:
        self.shard = Shard(index, market_map(SHARDS).placed([], SHARDS))

    def apply(self, step: Step) -> list[DeadItem] | str:
        entry = Entry(streams.commands(step.shard), step.stream_id, step.fields)
        try:
            return apply_entry(self.shard, entry)
        except (NotUnderstoodError, LaterFormatError, InvariantBroken) as error:
            return f"{type(error).__name__}: {error}"

    def take(self, dead: list[DeadItem] | str) -> Made:
        shard, output = self.shard, self.shard.take()
        waiters = list(dict.fromkeys(reply_to for reply_to, _ in output.replies if reply_to))
        replies = [
            (name, encode_frame([reply for to, reply in output.replies if to == name])) for name in waiters
        ]
        targets = list(dict.fromkeys(target for target, _, _ in output.outbox))
        outbox = []
        for target in targets:
            numbered = [(sequence, message) for to, sequence, message in output.outbox if to == target]
            messages = tuple(message for _, message in numbered)
            frame = MessageFrame(
                shard.state.index, target, numbered[0][0], messages, shard.state.time * 1_000
            )
            outbox.append((target, encode_messages(frame)))
        return Made(
            dead, output.frame, tuple(replies), tuple(outbox), state_checksum(shard.state), shard.digest()
        )

    def answers(self, frame: bytes, position: StreamId) -> list[tuple[str, bytes, bool]]:
        found = []
        for query in decode_queries(frame):
            reply_to, reply = self.shard.answer(query, TimeMs(position.ms))
            if isinstance(reply, AuditReply):
                reply = msgspec.structs.replace(reply, position=str(position))
            is_unknown = isinstance(query, OrderQuery) and type(reply).__name__ == "Refused"
            found.append((reply_to, encode_frame(reply), is_unknown))
        return found


class Recorder:
    """Writes the input of all shards, and lets the reference follow it."""

    def __init__(self, seed: int) -> None:
        self.chosen = random.Random(seed)
        self.shards = [Reference(index) for index in range(SHARDS)]
        self.steps: list[Step] = []
        self.made: list[Made] = []
        self._clock = itertools.count(START_MS, 7)
        self._mail: list[tuple[int, bytes]] = []

    def enter(self, shard: int, fields: Mapping[bytes, bytes], *, is_taken: bool = True) -> StreamId:
        stream_id = StreamId(next(self._clock))
        self._step(Step(shard, stream_id, dict(fields), is_taken))
        return stream_id

    def skip(self, shard: int, fields: Mapping[bytes, bytes]) -> None:
        stream_id = StreamId(next(self._clock))
        instruction = encode_skip(SkipEntry(0, "", str(stream_id), "ada", "looked at it"), START_MS * 1_000)
        entry = as_skipped(Entry(streams.commands(shard), stream_id, dict(fields)), instruction)
        self._step(Step(shard, stream_id, entry.fields, is_taken=True))

    def _step(self, step: Step) -> None:
        reference = self.shards[step.shard]
        dead = reference.apply(step)
        made = reference.take(dead) if step.is_taken else Made(dead)
        self.steps.append(step)
        self.made.append(made)
        self._mail += made.outbox

    def commands(self, shard: int, *items: Any, is_taken: bool = True) -> None:
        self.enter(shard, {COMMANDS_FIELD: encode_commands(items, (START_MS + 5) * 1_000)}, is_taken=is_taken)

    def deliver(self, left: int = 0) -> None:
        while len(self._mail) > left:
            target, frame = self._mail.pop(0)
            for _ in range(2 if self.chosen.random() < 0.1 else 1):
                self.enter(target, {MESSAGES_FIELD: frame})


def recorded(seed: int, orders: int = 400) -> Recorder:
    """Everything that an input may hold, at random and in order."""
    log = Recorder(seed)
    for shard in range(SHARDS):
        log.commands(shard, *first_configuration(shard, MARKETS))
    log.deliver()
    for shard in range(SHARDS):
        log.commands(shard, *(each for each in deposits() if each.account_id % SHARDS == shard))
    todo = trading(seed, orders)
    while todo:
        size = log.chosen.randrange(1, 6)
        frame, todo = todo[:size], todo[size:]
        for shard in range(SHARDS):
            own = [each for each in frame if each.account_id % SHARDS == shard]
            if own:
                log.commands(shard, *own, is_taken=log.chosen.random() < 0.8)
        log.deliver(log.chosen.randrange(4))
        if log.chosen.random() < 0.15:
            _garbage(log)
    log.deliver()
    _operators(log)
    log.deliver()
    for shard in range(SHARDS):
        log.commands(shard, Tick())
    return log


def _garbage(log: Recorder) -> None:
    shard, now_us = log.chosen.randrange(SHARDS), START_MS * 1_000
    other = (shard + 1) % SHARDS
    stranger = Withdraw(5, "r", AccountId(other + SHARDS), "USDT", AssetUnits(1), "of another shard")
    garbage: list[dict[bytes, bytes]] = [
        {b"x": b"y"},
        {COMMANDS_FIELD: b"\xc1"},
        {COMMANDS_FIELD: encode_frame((FORMAT, now_us, [[99, 8, "r", "unknown"], stranger, Tick()]))},
        {COMMANDS_FIELD: encode_frame([Tick()])},
        {COMMANDS_FIELD: encode_frame((FORMAT + 1, now_us, []))},
        {MESSAGES_FIELD: encode_frame((FORMAT, now_us, shard, shard, 1, []))},
        {MESSAGES_FIELD: encode_frame((FORMAT, now_us, other, shard, 10**9, [[99]]))},
    ]
    fields = log.chosen.choice(garbage)
    if log.chosen.random() < 0.3 and MESSAGES_FIELD not in fields:
        log.skip(shard, fields)
    else:
        log.enter(shard, fields)


def _operators(log: Recorder) -> None:
    shard = MARKETS.shard_of_market("BTCUSDT")
    market = next(market for market in MARKETS.markets if market.symbol == "BTCUSDT")
    for version, (status, fee) in enumerate(
        ((MarketStatus.TRADING, 9_000), (MarketStatus.CANCEL_ONLY, 9_000), (MarketStatus.DELISTING, 9_000)), 2
    ):
        changed = msgspec.structs.replace(market, taker_fee_ppm=fee)
        log.commands(shard, ConfigureMarket(version, "ops", MarketConfig(changed, shard, status, version)))
        log.commands(shard, _order(version, shard))
    log.deliver()
    log.commands(shard, CancelOrders(20, "ops", AccountId(0), "BTCUSDT"))
    for index in range(SHARDS):
        account = AccountId(index + SHARDS)
        log.commands(
            index, LimitAccount(30, "ops", account, AccountLimits(1, is_frozen=True)), _order(31, index)
        )
        log.commands(index, CancelOrders(32, "ops", account), CloseAccount(33, "ops", account))
        log.commands(index, WithdrawFees(34, "ops", index, "USDT", AssetUnits(1), "out"))
        log.commands(
            index, Withdraw(35, "gate", AccountId(index + SHARDS), "USDT", AssetUnits(7), "w"), Tick()
        )


def _order(number: int, shard: int) -> PlaceOrder:
    return PlaceOrder(
        number, "gate", AccountId(shard + SHARDS), f"late {number}", "ETHUSDT", Side.BUY, OrderType.LIMIT,
        TimeInForce.GTC,
        PriceTicks(PRICE), QuantityLots(1_000),
    )  # fmt: skip


QUERIES = encode_frame(
    [
        *(BalancesQuery(number, "a", AccountId(number)) for number in range(1, 5)),
        *(OpenOrdersQuery(number, "b", AccountId(number), "") for number in range(1, 5)),
        OrderQuery(9, "a", AccountId(3), "BTCUSDT", OrderId(10**9), ""),
        ConfigQuery(10, "c"),
        AuditQuery(11, "a"),
    ]
)


class Running:
    """The cores of all shards, of one implementation, on their way through a recorded input."""

    def __init__(self, cores: Cores) -> None:
        self.cores = [cores.new(index, SHARDS) for index in range(SHARDS)]
        self.positions = [STREAM_START] * SHARDS

    def run(self, steps: list[Step]) -> Iterator[Made]:
        for step in steps:
            yield self._made(self.cores[step.shard], step)
            self.positions[step.shard] = step.stream_id

    def _made(self, core: FrameCore, step: Step) -> Made:
        dead: list[DeadItem] | str
        try:
            dead = core.apply_frame(step.stream_id, step.fields)
        except (NotUnderstoodError, LaterFormatError, InvariantBroken) as error:
            dead = f"{type(error).__name__}: {error}"
        if not step.is_taken:
            return Made(dead)
        output = core.take()
        replies, outbox = tuple(output.replies()), tuple(output.outbox().items())
        assert output.closed_orders() == closed_orders(decode_events(output.frame) if output.frame else ())
        return Made(dead, output.frame, replies, outbox, state_checksum(core), core.digest())

    def restore(self, cores: Cores) -> None:
        """Let another implementation go on from the snapshots of this one."""
        for index, core in enumerate(self.cores):
            position = self.positions[index]
            snapshot = core.encode_snapshot(position)
            self.cores[index], stream_id = cores.restore(snapshot)
            assert stream_id == position
            assert self.cores[index].encode_snapshot(position) == snapshot


def golden(seed: int = 1) -> dict[str, str]:
    """Return hashes of everything that the reference makes of a recording."""
    log = recorded(seed)
    snapshots = [encode_snapshot(each.shard, StreamId(1)) for each in log.shards]
    steps = [(each.shard, str(each.stream_id), each.fields, each.is_taken) for each in log.steps]
    return {"input": _hash(steps), "output": _hash(log.made), "snapshots": _hash(snapshots)}


def _hash(value: object) -> str:
    return hashlib.blake2b(msgspec.msgpack.encode(value), digest_size=16).hexdigest()


if __name__ == "__main__":
    GOLDEN.write_text(msgspec.json.format(msgspec.json.encode(golden()).decode()) + "\n")
