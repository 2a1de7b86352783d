"""States of the past: a market's book at a sequence, an account at a moment."""

from typing import NamedTuple

from engine_worker.core.shard import Shard
from engine_worker.entries import apply_one_by_one
from engine_worker.replay import Replay
from history.past import Moment, Past, PastError, Progress, ShardPast, end_of, no_progress, steps, time_text
from protocol.events import DepthChanged, TradeExecuted
from protocol.orders import Balance, OrderState, Side
from protocol.stream_id import StreamId
from protocol.units import AccountId
from stream_log.interface import Entry

Levels = list[tuple[int, int]]


class PastBook(NamedTuple):
    """A market's book; levels are (price in ticks, quantity in lots), best first."""

    symbol: str
    sequence: int
    time: int
    """Milliseconds: of the last input that was applied."""
    stream_id: StreamId
    bids: Levels
    asks: Levels


class PastAccount(NamedTuple):
    """An account's balances and open orders at `time` (ms), after the entry `stream_id`."""

    account_id: int
    time: int
    stream_id: StreamId
    balances: list[Balance]
    open_orders: list[OrderState]


def book_at(
    past: Past,
    symbol: str,
    sequence: int | None = None,
    time: int | None = None,
    progress: Progress = no_progress,
) -> PastBook:
    """Return the book at the market's `sequence`, or at the end of the millisecond `time`, or now.

    Raises:
        PastError: the past does not reach back so far, or that moment is in the future.
    """
    shard_past = past.of_market(symbol)
    replay = _replay(shard_past, symbol, sequence, time)
    depth = replay.shard.depth(symbol)
    # The changes are applied one by one: the sequence may lie within an entry.
    sides: dict[Side, dict[int, int]] = {Side.BUY: dict(depth.bids), Side.SELL: dict(depth.asks)}
    reached, stream_id = depth.sequence, replay.position
    goal = _goal(shard_past, time)
    for entry in steps(replay, shard_past, goal, progress):
        for event in replay.shard.take().events:
            if not isinstance(event, TradeExecuted | DepthChanged) or event.market != symbol:
                continue
            if sequence is not None and event.sequence > sequence:
                break
            reached = event.sequence
            if isinstance(event, DepthChanged):
                for change in event.changes:
                    if change.quantity:
                        sides[change.side][change.price] = change.quantity
                    else:
                        sides[change.side].pop(change.price, None)
        if sequence is not None and replay.shard.sequence(symbol) > sequence:
            break
        stream_id = entry.stream_id
    if sequence is not None and reached < sequence:
        raise PastError(f"{symbol} is at sequence {reached}; {sequence} is still to come")
    return PastBook(
        symbol,
        reached,
        stream_id.ms,
        stream_id,
        sorted(sides[Side.BUY].items(), reverse=True),
        sorted(sides[Side.SELL].items()),
    )


def account_at(
    past: Past,
    account_id: int,
    symbol: str = "",
    sequence: int | None = None,
    time: int | None = None,
    progress: Progress = no_progress,
) -> PastAccount:
    """Return an account when `symbol` was at `sequence`, or at the end of the millisecond `time`, or now.

    At a sequence it includes every command that did not go beyond it. An account on another shard than the
    market is shown at the end of that millisecond.

    Raises:
        PastError: the past does not reach back so far, or that moment is in the future.
    """
    shard_past = past.of_account(account_id)
    if sequence is None:
        replay = _replay(shard_past, symbol, None, time)
        for _ in steps(replay, shard_past, _goal(shard_past, time), progress):
            replay.shard.take()
        return _account(replay.shard, account_id, replay.position)
    market_past = past.of_market(symbol)
    replay = _replay(market_past, symbol, sequence, None)
    crossing = _crossing(replay, market_past, symbol, sequence, progress)
    before, entry = crossing if crossing is not None else (replay.position, None)
    if market_past is not shard_past:
        return account_at(past, account_id, time=before.ms, progress=progress)
    if entry is None:
        return _account(replay.shard, account_id, replay.position)
    again = _replay(shard_past, symbol, sequence, None)
    for _ in steps(again, shard_past, before, progress):
        again.shard.take()
    return _account_before(again.shard, entry, account_id, symbol, sequence, before)


def _crossing(
    replay: Replay, past: ShardPast, symbol: str, sequence: int, progress: Progress
) -> tuple[StreamId, Entry] | None:
    """Return the entry that goes beyond the sequence, and the position before it.

    None: the log ends at the sequence.

    Raises:
        PastError: the log ends before it.
    """
    before = replay.position
    for entry in steps(replay, past, past.end(), progress):
        replay.shard.take()
        if replay.shard.sequence(symbol) > sequence:
            return before, entry
        before = entry.stream_id
    reached = replay.shard.sequence(symbol)
    if reached < sequence:
        raise PastError(f"{symbol} is at sequence {reached}; {sequence} is still to come")
    return None


def _account_before(
    shard: Shard, entry: Entry, account_id: int, symbol: str, sequence: int, position: StreamId
) -> PastAccount:
    """Apply an entry command by command, and return the account before the one that exceeds the sequence."""
    account = _account(shard, account_id, position)
    for _ in apply_one_by_one(shard, entry):
        if shard.sequence(symbol) > sequence:
            break
        account = _account(shard, account_id, entry.stream_id)
    return account


def _replay(past: ShardPast, symbol: str, sequence: int | None, time: int | None) -> Replay:
    """Return a replay that begins before the requested moment, at the nearest snapshot."""

    def fits(moment: Moment) -> bool:
        if sequence is not None:
            return moment.sequences.get(symbol, 0) <= sequence
        return time is None or moment.time <= time

    if sequence is not None:
        return past.replay_from(fits, f"sequence {sequence} of {symbol}")
    return past.replay_from(fits, "now" if time is None else time_text(time))


def _goal(past: ShardPast, time: int | None) -> StreamId:
    end = past.end()
    return end if time is None else end_of(time, end)


def _account(shard: Shard, account_id: int, position: StreamId) -> PastAccount:
    account = shard.state.accounts.get(AccountId(account_id))
    orders = (
        [order for orders in account.open_orders.values() for order in orders.values()] if account else []
    )
    return PastAccount(
        account_id,
        position.ms,
        position,
        list(account.balances()) if account else [],
        sorted(orders, key=lambda order: order.order_id),
    )
