"""Rebuilds Redis's data from the database: the shards' states and logs, and the feeds' state.

The ingest stores only what is archived, so the archive normally reaches at least as far as the rest of the
database. A shard's state is its newest archived snapshot and the log after it; its events after the last
ingested one are produced again by the replay, and are ingested and published as usual. Order ids and
sequences continue beyond all that can have been assigned, since orders that were acknowledged after the last
archived entry, for example during an outage of the database, are in no archive.

First a plan is made, then the database is updated in one transaction, then Redis is written. An interrupted
restore is simply repeated.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
import redis
from psycopg import sql

from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import encode_snapshot
from feeds.candles import OpenCandle
from feeds.state import TRADES_MAX, MarketState, ShardFeeds
from feeds.tickers import Bucket, kept_from
from history.past import Past, PastError, Progress, ShardPast, no_progress, steps, time_text
from persist.archive import insert_snapshot
from persist.archived import ShardArchive
from persist.lost_tail_comparison import stored_of
from protocol import streams
from protocol.codec import encode_frame, encode_messages
from protocol.commands import MessageFrame, ShardMessage
from protocol.events import Event, OrderClosed, OrderFilled, TradeExecuted
from protocol.intervals import INTERVALS, interval_bounds
from protocol.market import SHARD_COUNT_MAX, Market
from protocol.market_data import BookTicker, DepthSnapshot
from protocol.orders import CloseReason, OrderState, OrderStatus, Side
from protocol.positions import ShardPosition
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import ARCHIVE_READER, EVENTS_FIELD, TRIMMED, AfterLoss, EventReader
from protocol.trade_sums import TradeSum
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots, Sequence, TimeMs, TradeId
from stream_log.interface import Entry
from stream_log.redis_log import RedisStreamLog

ORDERS_SKIPPED_MIN: Final = 1_000_000
ORDERS_PER_S_MAX: Final = 1_000_000
"""More than a shard can accept: its rate is limited by one core and one disk."""
ORDERS_SKIPPED_MAX: Final = 10**12
"""More orders than can exist beyond the archive: the input is kept until it is archived.

No Redis can hold this number. Without this bound one restore from an archive that is years old would use up
the remaining numbers.
"""
ORDER_COUNT_MAX: Final = (2**53 - 1) // SHARD_COUNT_MAX
"""The maximum of orders: order ids are this count and two digits for the shard, at most 2^53.

Clients in JavaScript represent whole numbers up to 2^53: about 9 x 10^13 orders, and as many executions. This
allows 22 restores that skip the maximum of numbers.
"""
SEQUENCES_PER_ORDER: Final = 10
"""Numbers of each market's sequence skipped per order; followers of a book see a gap and start again.

An order changes the book when it arrives and when it leaves, and takes part in at most two trades that are
not counted for another order.
"""
EXECUTIONS_PER_ORDER: Final = 4
"""Executions per order: accepted and closed once, and at most two fills that no other order counts."""
EPOCHS_SKIPPED: Final = 1_000
BATCH: Final = 500
KEYS_AT_ONCE: Final = 1_000
_NO_LEVEL: Final = (PriceTicks(0), QuantityLots(0))


class RestoreError(Exception):
    """Nothing was restored; the message says why and what to do."""


class ShardLoss(msgspec.Struct, frozen=True):
    """What the database knows of a shard beyond its archive, and a restore cannot bring back."""

    shard: int
    after_id: str
    last_id: str
    orders: int
    fills: int
    trades: dict[str, tuple[int, int]]
    """Market -> first and last trade."""


class _Base(NamedTuple):
    """A shard at the moment that the feeds begin with: after the last event that was ingested."""

    stream_id: StreamId
    books: dict[str, DepthSnapshot]


class RestoredShard(NamedTuple):
    """A rebuilt shard, and what Redis and the database lack of it."""

    shard: Shard
    position: StreamId
    snapshot_id: StreamId
    """Where its replay began."""
    entries: int
    epoch: int
    ingested: StreamId
    base: _Base
    events: list[tuple[StreamId, bytes]]
    """(id, frame) of the events that were not ingested yet."""
    last_entry: Entry | None
    closed: dict[int, OrderState]
    """Orders closed in the position's own millisecond, where times do not tell whether they are lost."""


class Plan(NamedTuple):
    """The result of the replays: all that `write_database` and `write_redis` will write."""

    shards: list[RestoredShard]
    outboxes: dict[tuple[int, int], MessageFrame]
    """(source, target) -> messages that the source had sent and the target has not seen."""
    losses: list[ShardLoss]


def plan_restore(
    past: Past,
    connection: psycopg.Connection[Any],
    database_url: str,
    epochs: dict[int, int],
    progress: Callable[[int], Progress] = lambda _shard: no_progress,
) -> Plan:
    """Plan the restore from the archive.

    `epochs` are those in Redis; otherwise only the database is read.

    Raises:
        RestoreError: the archive does not lead to a state of all shards.
    """
    stored, restored = stored_of(database_url), []
    for shard_past in past.shards:
        shard = shard_past.shard
        stored_state = stored.get(shard)
        archive = ShardArchive(connection, shard)
        if stored_state is None or archive.oldest_id() is None:
            raise RestoreError(
                f"Nothing of shard {shard} is archived in this database; there is nothing to restore from."
            )
        epoch = max(stored_state.archived_epoch, epochs.get(shard, 0)) + EPOCHS_SKIPPED
        restored.append(
            _rebuild(shard_past, stored_state.archived_id, stored_state.ingested_id, epoch, progress(shard))
        )
    outboxes = _outboxes(past, restored)
    losses = [loss for shard in restored if (loss := _loss(connection, shard)) is not None]
    return Plan(restored, outboxes, losses)


def _rebuild(
    past: ShardPast, position: StreamId, ingested: StreamId, epoch: int, progress: Progress
) -> RestoredShard:
    base_id = min(position, ingested)
    try:
        replay = past.replay_from(
            lambda moment: moment.stream_id <= base_id,
            f"{base_id}, up to where shard {past.shard}'s events are stored",
        )
        snapshot_id = replay.position
        last_entry: Entry | None = None
        closed: dict[int, OrderState] = {}
        since_ms = position.ms
        for number, entry in enumerate(steps(replay, past, base_id, progress)):
            last_entry = entry
            if number % BATCH == 0:
                closed.update(_closed_since(since_ms, replay.shard.take().events))
        closed.update(_closed_since(since_ms, replay.shard.take().events))
        # The feeds start from the books as of `base_id`; the later events bring them to `position`.
        base = _Base(
            base_id,
            {symbol: replay.shard.depth(symbol) for symbol in replay.shard.state.markets},
        )
        events: list[tuple[StreamId, bytes]] = []
        for entry in steps(replay, past, position, progress):
            last_entry = entry
            output = replay.shard.take()
            closed.update(_closed_since(since_ms, output.events))
            if output.frame:
                events.append((entry.stream_id, output.frame))
        replay.shard.check_invariants()
    except (PastError, InvariantBroken) as error:
        raise RestoreError(f"Shard {past.shard} cannot be rebuilt: {error}") from error
    if last_entry is None and position != STREAM_START:
        last_entry = _entry_at(past, position)
    return RestoredShard(
        replay.shard, position, snapshot_id, replay.entries, epoch, ingested, base, events, last_entry, closed
    )


def _closed_since(since_ms: int, events: Iterable[Event]) -> Iterator[tuple[int, OrderState]]:
    for event in events:
        if (
            isinstance(event, OrderFilled | OrderClosed)
            and event.time >= since_ms
            and not event.order.status.is_open
        ):
            yield event.order.order_id, event.order


def _entry_at(past: ShardPast, position: StreamId) -> Entry | None:
    entries = past.entries(position.preceding(), 1)
    return entries[0] if entries and entries[0].stream_id == position else None


def _outboxes(past: Past, restored: list[RestoredShard]) -> dict[tuple[int, int], MessageFrame]:
    """Return the messages that were on their way between the shards; their senders make them again."""
    outboxes: dict[tuple[int, int], MessageFrame] = {}
    for sender in restored:
        source = sender.shard
        missing = _undelivered(source, restored)
        if not missing:
            continue
        messages: defaultdict[int, list[ShardMessage]] = defaultdict(list)
        shard_past = past.shards[source.state.index]
        # Neither snapshots nor the archive have sent messages: the commands since then make them again.
        replay = shard_past.replay_from(
            lambda moment, limit=sender.snapshot_id: moment.stream_id <= limit,  # type: ignore[misc]
            str(sender.snapshot_id),
        )
        first_sent = dict(replay.shard.state.sent)
        for _ in steps(replay, shard_past, sender.position):
            for target, sequence, message in replay.shard.take().outbox:
                if sequence > missing.get(target, sequence):
                    messages[target].append(message)
        for target, seen in missing.items():
            if first_sent.get(target, 0) > seen:
                raise RestoreError(
                    f"Messages of shard {source.state.index} to shard {target} that were on their way are "
                    f"older than the snapshot of {sender.snapshot_id}."
                )
            rest = tuple(messages[target])
            outboxes[source.state.index, target] = MessageFrame(
                source.state.index, target, seen + 1, rest, source.state.time * 1_000
            )
    return outboxes


def _undelivered(source: Shard, restored: list[RestoredShard]) -> dict[int, int]:
    """Return shard -> the number of messages of `source` that it has, for shards that lack some.

    Raises:
        RestoreError: a shard has more than `source` has sent.
    """
    missing: dict[int, int] = {}
    for receiver in restored:
        sent, seen = (
            source.state.sent.get(receiver.shard.state.index, 0),
            receiver.shard.state.received.get(source.state.index, 0),
        )
        if seen > sent:
            raise RestoreError(
                f"Shard {receiver.shard.state.index} has heard {seen} messages of shard "
                f"{source.state.index}, whose "
                f"archive knows of {sent}: the archives of the two do not belong together."
            )
        if seen < sent:
            missing[receiver.shard.state.index] = seen
    return missing


def _loss(connection: psycopg.Connection[Any], restored: RestoredShard) -> ShardLoss | None:
    if restored.ingested <= restored.position:
        return None
    shard, bound = restored.shard.state.index, _after(restored.position)
    row = connection.execute(
        (
            "SELECT count(DISTINCT (event, stream_id)) FROM ledger_entries WHERE shard = %s AND kind = "
            "'trade' AND "
        )
        + _LATER,
        (shard, *bound),
    ).fetchone()
    orders = connection.execute(
        "SELECT count(*) FROM orders WHERE order_id %% %s = %s AND updated_time >= to_timestamp(%s / 1000.0)",
        (SHARD_COUNT_MAX, shard, bound[0]),
    ).fetchone()
    trades: dict[str, tuple[int, int]] = {}
    for symbol, state in restored.shard.state.markets.items():
        last = connection.execute(
            "SELECT last_trade_id FROM ingest_markets WHERE market = %s", (symbol,)
        ).fetchone()
        if last is not None and last[0] > state.trade_id:
            trades[symbol] = (state.trade_id + 1, last[0])
    assert row is not None
    assert orders is not None
    return ShardLoss(shard, str(restored.position), str(restored.ingested), orders[0], row[0], trades)


# Of an entry of the ledger: whether its event came after a position.
_LATER: Final = (
    "time >= to_timestamp(%s / 1000.0) AND "
    "(split_part(stream_id, '-', 1)::bigint, split_part(stream_id, '-', 2)::numeric) > (%s, %s)"
)


def _after(stream_id: StreamId) -> tuple[int, int, int]:
    return stream_id.ms, *stream_id


def orders_to_skip(since_ms: int, now_ms: int) -> int:
    """Return how many order numbers to skip: more than a shard can have assigned since its archive's end."""
    given = max(0, now_ms - since_ms) * ORDERS_PER_S_MAX // 1_000
    return min(ORDERS_SKIPPED_MIN + given, ORDERS_SKIPPED_MAX)


def write_database(connection: psycopg.Connection[Any], plan: Plan, now_ms: int) -> None:
    """Update the database by the plan, in the open transaction: snapshots of restored states, and losses.

    Raises:
        RestoreError: a shard has no order numbers left.
    """
    row = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetchone()
    assert row is not None
    # The later of two clocks: a clock that is behind must not cause numbers to be assigned again.
    now_ms = max(now_ms, row[0])
    losses = {loss.shard: loss for loss in plan.losses}
    for restored in plan.shards:
        _skip_numbers(connection, restored, now_ms)
        shard = restored.shard.state.index
        sequences = {symbol: state.sequence for symbol, state in restored.shard.state.markets.items()}
        snapshot = encode_snapshot(restored.shard, restored.position)
        insert_snapshot(connection, shard, restored.position, sequences, snapshot)
        if (loss := losses.get(shard)) is not None:
            _mark_lost(connection, restored, loss)
        connection.execute(
            "UPDATE archive SET epoch = %s, may_restart = true WHERE shard = %s", (restored.epoch, shard)
        )


def _skip_numbers(connection: psycopg.Connection[Any], restored: RestoredShard, now_ms: int) -> None:
    """Continue with numbers that were never assigned.

    Trade ids continue without a gap, on which every reader relies: ids of trades that were published but not
    stored are assigned again.
    """
    shard = restored.shard
    # The entry's id is by Redis's clock alone, which may have been ahead; the shard's time is by two.
    skipped = orders_to_skip(min(shard.state.time, restored.position.ms), now_ms)
    row = connection.execute(
        "SELECT max(order_id) FROM orders WHERE order_id %% %s = %s", (SHARD_COUNT_MAX, shard.state.index)
    ).fetchone()
    last_order = row[0] // SHARD_COUNT_MAX if row and row[0] is not None else 0
    shard.state.order_count = max(shard.state.order_count, last_order) + skipped
    # Clients distinguish reports by these: the id of a received but lost report must not be assigned again.
    shard.state.execution_count += skipped * EXECUTIONS_PER_ORDER
    if max(shard.state.order_count, shard.state.execution_count) > ORDER_COUNT_MAX:
        raise RestoreError(f"Shard {shard.state.index} has no order numbers left that clients can read.")
    for symbol, state in shard.state.markets.items():
        row = connection.execute(
            "SELECT coalesce(max(trade_id), 0), coalesce(max(sequence), 0), coalesce(max(aggregate_id), 0) "
            "FROM (SELECT * FROM trades WHERE market = %s ORDER BY trade_id DESC LIMIT 1) AS newest",
            (symbol,),
        ).fetchone()
        assert row is not None
        state.trade_id = max(state.trade_id, row[0])
        state.sequence = max(state.sequence, row[1]) + skipped * SEQUENCES_PER_ORDER
        state.aggregate_id = max(state.aggregate_id, row[2])
        prevented = connection.execute(
            "SELECT coalesce(max(match_id), 0) FROM prevented_matches WHERE market = %s", (symbol,)
        ).fetchone()
        assert prevented is not None
        state.prevented_id = max(state.prevented_id, prevented[0])


def _mark_lost(connection: psycopg.Connection[Any], restored: RestoredShard, loss: ShardLoss) -> None:
    """Reverse what the accounts have lost: the ledger gets reversing entries, the trades stay."""
    shard, bound = loss.shard, _after(StreamId.parse(loss.after_id))
    trades = sum(last - first + 1 for first, last in loss.trades.values())
    row = connection.execute(
        "INSERT INTO losses (shard, after_id, last_id, orders, fills, trades) VALUES (%s, %s, %s, %s, %s, "
        "%s) RETURNING loss",
        (shard, loss.after_id, loss.last_id, loss.orders, loss.fills, trades),
    ).fetchone()
    assert row is not None
    connection.cursor().executemany(
        "INSERT INTO lost_trades VALUES (%s, %s, %s, %s)",
        [(symbol, first, last, row[0]) for symbol, (first, last) in loss.trades.items()],
    )
    # What is taken back may be columnstore already; plain PostgreSQL knows no such limit, and does not mind.
    connection.execute("SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
    connection.execute(
        "DELETE FROM fills USING ledger_entries AS entries WHERE entries.shard = %s AND entries.kind = "
        "'trade' AND fills.time = entries.time AND fills.time >= to_timestamp(%s / 1000.0) AND "
        "entries.account_id = fills.account_id AND entries.reference = fills.market || ':' || fills.trade_id "
        "AND " + _LATER.replace("time", "entries.time", 1),
        (shard, bound[0], *bound),
    )
    # A client that repeats a lost transfer must not be told that it has happened.
    connection.execute(
        "DELETE FROM transfers USING ledger_entries AS entries WHERE entries.shard = %s AND entries.kind = "
        "transfers.kind AND entries.account_id = transfers.account_id AND entries.reference = "
        "transfers.transfer_id AND entries.time = transfers.time AND "
        + _LATER.replace("time", "entries.time", 1),
        (shard, *bound),
    )
    connection.execute(
        "INSERT INTO ledger_entries (time, shard, stream_id, event, entry, account_id, asset, amount, kind, "
        "reference) SELECT time, shard, stream_id, event, entry + 100, account_id, asset, -amount, 'loss', "
        "'loss:' || %s FROM ledger_entries WHERE shard = %s AND entry < 100 AND " + _LATER,
        (row[0], shard, *bound),
    )
    # What the account had after an entry that is taken back, it never had: statements add these up instead
    # (persist/schema/0011).
    connection.execute(
        "UPDATE ledger_entries SET balance = NULL WHERE shard = %s AND balance IS NOT NULL AND " + _LATER,
        (shard, *bound),
    )
    for order_id, values in _orders_to_rewrite(connection, restored, bound[0]):
        connection.execute(
            "UPDATE orders SET status = %s, quantity = %s, cum_quantity = %s, cum_quote = %s, version = %s, "
            "close_reason = %s, prevented_quantity = %s, prevented_match_id = %s WHERE order_id = %s",
            (*values, order_id),
        )
    connection.execute("UPDATE ingest SET last_id = %s, error = '' WHERE shard = %s", (loss.after_id, shard))


def _orders_to_rewrite(
    connection: psycopg.Connection[Any], restored: RestoredShard, since_ms: int
) -> Iterable[tuple[int, tuple[int | None, ...]]]:
    shard = restored.shard
    rows = connection.execute(
        "SELECT order_id, account_id, market, quantity, cum_quantity, cum_quote, coalesce(version, 0) FROM "
        "orders WHERE order_id %% %s = %s AND updated_time >= to_timestamp(%s / 1000.0)",
        (SHARD_COUNT_MAX, shard.state.index, since_ms),
    ).fetchall()
    for order_id, account_id, market, quantity, cum_quantity, cum_quote, version in rows:
        order = _open_order(shard, account_id, market, order_id) or restored.closed.get(order_id)
        if order is not None:
            amounts = (order.quantity, order.cum_quantity, order.cum_quote)
            # With its version at that time: later states have larger versions, though not than the lost ones.
            course = order.course
            prevented = (
                (course.prevented_quantity, course.prevented_match_id) if course is not None else (None, None)
            )
            yield order_id, (order.status, *amounts, order.version, order.close_reason or 0, *prevented)
        else:  # accepted or closed after the position
            amounts = (quantity, cum_quantity, cum_quote)
            yield (
                order_id,
                (OrderStatus.EXPIRED, *amounts, version, CloseReason.CANCELED_BY_OPERATOR, None, None),
            )


def _open_order(shard: Shard, account_id: int, market: str, order_id: int) -> OrderState | None:
    account = shard.state.accounts.get(AccountId(account_id))
    orders = account.open_orders.get(market, {}) if account is not None else {}
    return orders.get(OrderId(order_id))


_TAG: Final = re.compile(r"[^{]*\{([0-9]{1,3})\}.*", re.DOTALL)
"""A key with the hash tag of a shard."""


def write_redis(
    client: redis.Redis,
    cache: redis.Redis,
    log: RedisStreamLog,
    connection: psycopg.Connection[Any],
    plan: Plan,
    now_ms: int,
) -> None:
    """Replace what Redis has of the shards; `cache` is where what may be lost is.

    A shard's position comes last: without it nothing of it opens.
    """
    for server in (client, cache):
        _delete_replaced(server, {restored.shard.state.index for restored in plan.shards})
    for restored in plan.shards:
        log.save_snapshot(
            restored.shard.state.index, encode_snapshot(restored.shard, restored.position), restored.position
        )
        _write_logs(client, restored, plan.outboxes)
        _write_feeds(client, cache, connection, restored, now_ms)
        client.set(
            streams.position(restored.shard.state.index),
            ShardPosition(restored.epoch, restored.position).encode(),
        )


def _delete_replaced(client: redis.Redis, shards: Container[int]) -> None:
    """Delete what is rebuilt: the data of these shards, and data of no shard.

    Markets that no longer exist leave nothing behind, either.
    """
    doomed: list[bytes] = []
    for key in client.scan_iter(count=KEYS_AT_ONCE):
        name = key.decode(errors="replace")
        # A stranger's key with a tag that is no shard's number stays; nothing of the exchange reads it.
        tag = _TAG.fullmatch(name)
        if streams.after_loss(name) is AfterLoss.REPLACED and (
            int(tag[1]) in shards if tag else "{" not in name
        ):
            doomed.append(key)
    # Positions first: after an interruption, no shard opens on the remaining data.
    doomed.sort(key=lambda key: not key.startswith(streams.position(0).partition("{")[0].encode()))
    for start in range(0, len(doomed), KEYS_AT_ONCE):
        with client.pipeline(transaction=False) as pipeline:
            for key in doomed[start : start + KEYS_AT_ONCE]:
                pipeline.delete(key)
            pipeline.execute()


def _write_logs(
    client: redis.Redis, restored: RestoredShard, outboxes: dict[tuple[int, int], MessageFrame]
) -> None:
    shard, position, ingested = restored.shard.state.index, restored.position, restored.base.stream_id
    _move_end(client, streams.events(shard), ingested)
    for stream_id, frame in restored.events:
        client.xadd(streams.events(shard), {EVENTS_FIELD: frame}, id=str(stream_id))
    if restored.last_entry is not None:
        fields: Any = restored.last_entry.fields
        client.xadd(streams.commands(shard), fields, id=str(position))
    else:
        _move_end(client, streams.commands(shard), position)
    # Ids go on after everything that was ever stored, also where it is lost.
    if restored.ingested > position:
        _move_end(client, streams.commands(shard), restored.ingested)
    messages: Any = {
        str(target): encode_messages(frame, restored.shard.state.format)
        for (source, target), frame in outboxes.items()
        if source == shard
    }
    if messages:
        client.xadd(streams.outbox(shard), messages, id=str(position))
    passed: Any = {
        EventReader.FEEDS: str(position),
        EventReader.PERSIST: str(ingested),
        ARCHIVE_READER: str(position),
        TRIMMED: str(position),
    }
    client.hset(streams.passed(shard), mapping=passed)


def _move_end(client: redis.Redis, stream: str, stream_id: StreamId) -> None:
    """Let the next entry of a stream have an id after this one, without adding an entry."""
    if stream_id != STREAM_START:
        client.xadd(stream, {b"x": b""}, id=str(stream_id))
        client.xdel(stream, str(stream_id))


def _write_feeds(
    client: redis.Redis,
    cache: redis.Redis,
    connection: psycopg.Connection[Any],
    restored: RestoredShard,
    now_ms: int,
) -> None:
    """Write the feeds' state at the position, from the database and the events that it does not have yet."""
    shard, base = restored.shard.state.index, restored.base
    base_time, time = base.stream_id.ms, restored.position.ms
    # Those that were listed up to there; the events tell of the others.
    markets = [state.market for symbol, state in restored.shard.state.markets.items() if symbol in base.books]
    states: dict[str, MarketState] = {}
    for market in markets:
        book, trades = base.books[market.symbol], _last_trades(connection, market)
        states[market.symbol] = MarketState(
            Sequence(book.sequence),
            TimeMs(base_time),
            dict(book.bids),
            dict(book.asks),
            _open_candles(connection, market, base_time),
            *_ticker_window(connection, market, base_time),
        )
        if trades:
            cache.lpush(streams.trades(shard, market.symbol), *map(encode_frame, trades))
    feeds = ShardFeeds.rebuilt(shard, markets, base.stream_id, base_time, states)
    for stream_id, frame in restored.events:
        feeds.apply(stream_id, frame)
    feeds.skip(restored.position)
    for key, frames in feeds.take_outputs(time).trades.items():
        cache.lpush(key, *map(bytes, frames))
        cache.ltrim(key, 0, TRADES_MAX - 1)
    feeds.go_on_from({symbol: state.sequence for symbol, state in restored.shard.state.markets.items()})
    state = feeds.save()
    fields: Any = {
        "epoch": now_ms,  # larger than any that a process of before was given
        "published_id": str(restored.position),
        "published_time": feeds.time,
        "state": state.state,
        "state_id": str(restored.position),
        **state.chunks,
    }
    client.hset(streams.feeds_state(shard), mapping=fields)
    # The feeds write all read models at their start; until then, requests need this one.
    for symbol in restored.shard.state.markets:
        depth = restored.shard.depth(symbol)
        best_bid, best_ask = depth.bids[:1] or (_NO_LEVEL,), depth.asks[:1] or (_NO_LEVEL,)
        ticker = BookTicker(TimeMs(time), symbol, depth.sequence, *best_bid[0], *best_ask[0])
        cache.set(streams.book_ticker(shard, symbol), encode_frame(ticker))


def _last_trades(connection: psycopg.Connection[Any], market: Market) -> list[TradeExecuted]:
    """Return the newest trades, oldest first."""
    rows = connection.execute(
        "SELECT (extract(epoch from time) * 1000)::bigint, sequence, trade_id, aggregate_id, price, "
        "quantity, taker_side, maker_order_id, taker_order_id, maker_account_id, taker_account_id FROM "
        "trades WHERE market = %s ORDER BY trade_id DESC LIMIT %s",
        (market.symbol, TRADES_MAX),
    ).fetchall()
    return [
        TradeExecuted(
            TimeMs(time), market.symbol, Sequence(sequence), TradeId(trade_id), aggregate_id,
            PriceTicks(price),
            QuantityLots(quantity), Side(side), OrderId(maker), OrderId(taker), AccountId(maker_account),
            AccountId(taker_account),
        )
        for (
            time, sequence, trade_id, aggregate_id, price, quantity, side, maker, taker, maker_account,
            taker_account,
        ) in reversed(rows)
    ]  # fmt: skip


_SUMS: Final = """SELECT (extract(epoch from c.open_time) * 1000)::bigint, c.open, c.high, c.low, c.close,
    coalesce(t.quantity, 0), c.volume::numeric(38, 0), c.quote_volume::numeric(38, 0), c.trade_count,
    c.taker_buy_volume::numeric(38, 0), c.taker_buy_quote::numeric(38, 0), c.first_trade_id, c.last_trade_id
FROM {} AS c LEFT JOIN trades AS t ON t.market = c.market AND t.trade_id = c.last_trade_id
WHERE c.market = %s AND c.open_time >= to_timestamp(%s / 1000.0) ORDER BY c.open_time"""


def _sums(
    connection: psycopg.Connection[Any], market: Market, interval: str, since_ms: int
) -> list[tuple[int, TradeSum]]:
    statement = sql.SQL(_SUMS).format(sql.Identifier(f"candles_{interval}"))
    rows = connection.execute(statement, (market.symbol, since_ms)).fetchall()
    return [(opened, TradeSum(*map(int, values))) for opened, *values in rows]


def _open_candles(connection: psycopg.Connection[Any], market: Market, time: int) -> dict[str, OpenCandle]:
    candles: dict[str, OpenCandle] = {}
    for interval in INTERVALS:
        start, end = interval_bounds(interval, time)
        for open_time, total in _sums(connection, market, interval, start):
            if open_time == start:
                candles[interval] = OpenCandle(start, end, total)
    return candles


def _ticker_window(
    connection: psycopg.Connection[Any], market: Market, time: int
) -> tuple[int, list[Bucket]]:
    """Return the price before all windows of the ticker, and the trades of their seconds."""
    first_second = kept_from(time)
    row = connection.execute(
        "SELECT price FROM trades WHERE market = %s AND time < to_timestamp(%s) ORDER BY time DESC, trade_id "
        "DESC LIMIT 1",
        (market.symbol, first_second),
    ).fetchone()
    seconds = _sums(connection, market, "1s", first_second * 1_000)
    return (row[0] if row else 0), [(opened // 1_000, total) for opened, total in seconds]


def loss_text(loss: ShardLoss) -> str:
    """Return one line: the range of a shard's log that is lost, and how many orders, fills and trades."""
    trades = (
        ", ".join(f"{symbol} {first} to {last}" for symbol, (first, last) in loss.trades.items()) or "none"
    )
    since, until = (time_text(StreamId.parse(stream_id).ms) for stream_id in (loss.after_id, loss.last_id))
    return (
        f"shard {loss.shard}: from {loss.after_id} ({since}) to {loss.last_id} "
        f"({until}): {loss.orders} orders changed, {loss.fills} fills, trades: {trades}"
    )
