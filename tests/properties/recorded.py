"""A recorded log of three shards, as a file that any interpreter can replay: it needs the core and nothing of
the test tools.

`python -m tests.properties.recorded FILE` prints a digest of everything that the replay of the file produces.
"""

import hashlib
import itertools
import random
import sys
from pathlib import Path

import msgspec

from engine_worker.core import journal
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot, encode_snapshot, state_hash
from engine_worker.entries import apply_entry
from protocol import streams
from protocol.codec import encode_frame
from protocol.commands import CancelAllOrders, CancelOrder, Command, Deposit, PlaceOrder
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from protocol.windows import Windows
from stream_log.interface import Entry
from tests.properties.markets import market_map

SHARDS = 3
HASH_INTERVAL = 100
WINDOWS = Windows(request_ms=300, key_ms=500, keys_max=8)
MARKETS = market_map(SHARDS)
ACCOUNTS = (1, 2, 3, 4, 5)


class Recording(msgspec.Struct):
    """What the shards' inputs held."""

    inputs: list[list[tuple[StreamId, dict[bytes, bytes]]]]

    def entries(self, shard: int) -> list[Entry]:
        return [Entry(streams.commands(shard), stream_id, fields) for stream_id, fields in self.inputs[shard]]


def record(commands: int, seed: int = 1) -> Recording:
    """Trade at random; a message is delivered some commands after it was sent."""
    chosen, clock = random.Random(seed), itertools.count(1_767_225_600_000)
    shards = [Shard(index, MARKETS, WINDOWS) for index in range(SHARDS)]
    recording = Recording([[] for _ in shards])
    on_the_way: list[tuple[int, bytes]] = []

    def enter(shard: int, fields: dict[bytes, bytes]) -> None:
        entry = Entry(streams.commands(shard), StreamId(next(clock)), fields)
        recording.inputs[shard].append((entry.stream_id, fields))
        apply_or_not(shards[shard], entry)
        for target, sequence, message in shards[shard].take().outbox:
            on_the_way.append((target, encode_frame((shard, target, sequence, (message,)))))

    def enter_commands(frame: list[Command]) -> None:
        for shard in range(SHARDS):
            own = [command for command in frame if command.account_id % SHARDS == shard]
            if own:
                enter(shard, {COMMANDS_FIELD: encode_frame(own)})

    enter_commands(
        [
            Deposit(0, "test", AccountId(account_id), asset, AssetUnits(10**12), f"first {asset}")
            for account_id in ACCOUNTS
            for asset in MARKETS.assets
        ]
    )
    for number in range(0, commands, 4):
        batch = [_command(chosen, number + each, commands) for each in range(4)]
        for _ in range(2 if chosen.random() < 0.1 else 1):
            enter_commands(batch)
        if chosen.random() < 0.1:
            enter(chosen.randrange(SHARDS), {b"x": b"garbage"})
        while len(on_the_way) > chosen.randrange(4):
            target, frame = on_the_way.pop(0)
            enter(target, {MESSAGES_FIELD: frame})
    while on_the_way:
        target, frame = on_the_way.pop(0)
        enter(target, {MESSAGES_FIELD: frame})
    return recording


def _command(chosen: random.Random, number: int, commands: int) -> Command:
    account_id, market = AccountId(chosen.choice(ACCOUNTS)), chosen.choice(MARKETS.markets)
    dice = chosen.random()
    if dice < 0.15:
        name = f"c{chosen.randrange(commands)}"
        return CancelOrder(number, "test", account_id, market.symbol, OrderId(0), name)
    if dice < 0.17:
        return CancelAllOrders(number, "test", account_id, market.symbol)
    if dice < 0.2:
        key = f"k{number // 2}"
        return Deposit(number, "test", account_id, market.base, AssetUnits(5), f"t{number}", key)
    by_market = dice > 0.9
    return PlaceOrder(
        number,
        "test",
        account_id,
        f"c{chosen.randint(number // 2, number)}",
        market.symbol,
        chosen.choice((Side.BUY, Side.SELL)),
        OrderType.MARKET if by_market else OrderType.LIMIT,
        TimeInForce.IOC if by_market else chosen.choice((TimeInForce.GTC, TimeInForce.GTC, TimeInForce.FOK)),
        PriceTicks(chosen.randint(4, 8)),
        QuantityLots(chosen.randint(10, 40)),
        self_trade_prevention=chosen.choice(list(SelfTradePrevention)),
        idempotency_key=f"k{number // chosen.randint(1, 9)}" if chosen.random() < 0.3 else "",
    )


def produced(shard: Shard, entries: list[Entry], batch: int = 1) -> list[bytes]:
    """Apply the entries in batches and return the encodings of all that came of it, but without the batches'
    heads."""
    found: list[bytes] = []
    for at in range(0, len(entries), batch):
        for entry in entries[at : at + batch]:
            apply_or_not(shard, entry)
        output = shard.take()
        found += [encode_frame(each) for each in (*output.events, *output.outbox, *output.replies)]
    return found


def apply_or_not(shard: Shard, entry: Entry) -> None:
    """Apply an entry; what nobody understands, a shard passes over."""
    try:
        apply_entry(shard, entry)
    except ValueError:
        assert b"x" in entry.fields


def replayed(recording: Recording) -> str:
    """Return a digest of all that the shards say and are in a replay, with a restart from a snapshot in the
    middle."""
    hashed = hashlib.sha256()
    for index in range(SHARDS):
        shard, entries = Shard(index, MARKETS, WINDOWS), recording.entries(index)
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            for encoded in produced(shard, half):
                hashed.update(encoded)
            snapshot = encode_snapshot(shard, half[-1].stream_id)
            hashed.update(snapshot)
            shard, _ = decode_snapshot(snapshot)
        hashed.update(state_hash(shard).encode())
    return hashed.hexdigest()


if __name__ == "__main__":
    journal.STATE_HASH_INTERVAL = HASH_INTERVAL  # type: ignore[misc]
    sys.stdout.write(replayed(msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Recording)))
