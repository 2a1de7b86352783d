"""What feeds take off the counts of unfilled orders: each order once, when it trades for the first time after
it has rested."""

import msgspec
import pytest

from feeds.first_fills import Forgiven
from feeds.state import ShardFeeds
from protocol.events import Event, OrderFilled
from protocol.orders import Liquidity
from protocol.stream_id import StreamId
from protocol.units import AssetUnits, PriceTicks, QuantityLots, TimeMs, TradeId
from tests.support.market_log import START_MS, accepted, frame, market_map

TEN_SECONDS = START_MS // 10_000
DAY = START_MS // 86_400_000
AFTER_MS = 2_000
"""By when an order is in the counts."""


def fill(
    time: int,
    account: int,
    *,
    accepted_at: int = START_MS,
    quantity: int = 1,
    executed: int = 1,
    maker: bool = True,
) -> Event:
    order = accepted(accepted_at, account).order
    return OrderFilled(
        TimeMs(time),
        msgspec.structs.replace(order, cum_quantity=QuantityLots(executed)),
        TradeId(1),
        PriceTicks(10),
        QuantityLots(quantity),
        AssetUnits(10),
        Liquidity.MAKER if maker else Liquidity.TAKER,
        AssetUnits(0),
        "BTC",
        (),
    )


@pytest.fixture
def feeds() -> ShardFeeds:
    return ShardFeeds(3, market_map().markets)


def forgiven(feeds: ShardFeeds, *events: Event) -> dict[str, Forgiven]:
    feeds.apply(StreamId(START_MS), frame(*events))
    return feeds.take_outputs(0).forgiven


def test_a_makers_first_fill_counts_once(feeds: ShardFeeds) -> None:
    late = START_MS + AFTER_MS
    assert forgiven(feeds, fill(late, 7), fill(late, 7), fill(late, 8)) == {
        f"rate:{{3}}:orders10s:7:{TEN_SECONDS}": Forgiven(2, 0),
        f"rate:{{3}}:ordersday:7:{DAY}": Forgiven(2, 0),
        f"rate:{{3}}:orders10s:8:{TEN_SECONDS}": Forgiven(1, 0),
        f"rate:{{3}}:ordersday:8:{DAY}": Forgiven(1, 0),
    }
    assert forgiven(feeds) == {}


def test_neither_a_takers_nor_a_later_one_does(feeds: ShardFeeds) -> None:
    late = START_MS + AFTER_MS
    assert forgiven(feeds, fill(late, 7, maker=False), fill(late, 7, quantity=1, executed=2)) == {}


def test_an_order_may_trade_before_it_is_counted(feeds: ShardFeeds) -> None:
    assert set(forgiven(feeds, fill(START_MS + 1, 7)).values()) == {Forgiven(1, 1)}
    # Of another window's order nothing is untold in this one.
    late = START_MS + 10_000
    assert forgiven(feeds, fill(late, 7, accepted_at=late - late % 10_000 - 1)) == {
        f"rate:{{3}}:orders10s:7:{TEN_SECONDS + 1}": Forgiven(1, 0),
        f"rate:{{3}}:ordersday:7:{DAY}": Forgiven(1, late % 10_000 < 1_000),
    }


def test_what_has_left_before_a_restart_is_not_taken_off_again(feeds: ShardFeeds) -> None:
    feeds.apply(StreamId(START_MS), frame(fill(START_MS + AFTER_MS, 7)))
    feeds.skip_outputs()
    assert forgiven(feeds) == {}
