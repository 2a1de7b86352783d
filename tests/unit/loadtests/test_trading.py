"""What traders do: in realistic proportions, near the touch, within the limits, with signatures the exchange
accepts."""

from collections import Counter
from random import Random

import pytest

from loadtests.trading import (
    MIX,
    OPEN_ORDERS_MAX,
    QUOTE_DISTANCE_PPM_MAX,
    Action,
    Touch,
    choose,
    funds,
    order_pause_ms,
    order_quantity,
    quote_price,
    sent_ns,
    source_address,
    timed_id,
)
from protocol.market import Market
from protocol.orders import Side
from protocol.units import PPM, PriceTicks, parse_decimal
from runtime.settings import Settings

MARKETS = Settings().market_map().markets
PRICES = {"BTCUSDT": "100000", "ETHUSDT": "3500", "SOLUSDT": "180"}


def price_of(market: Market) -> PriceTicks:
    return PriceTicks(parse_decimal(PRICES[market.symbol]) // market.tick_size)


def test_what_traders_do_keeps_its_proportions() -> None:
    random, draws = Random(1), 20_000
    done = Counter(choose(random, open_orders=OPEN_ORDERS_MAX // 2) for _ in range(draws))
    assert set(done) == set(Action)
    for action, share in MIX.items():
        assert done[action] / draws == pytest.approx(share / sum(MIX.values()), abs=0.01)
    assert done[Action.QUOTE] + done[Action.CANCEL] > 20 * done[Action.TAKE]


def test_nobody_cancels_without_an_open_order_or_quotes_without_end() -> None:
    random, open_orders, most = Random(2), 0, 0
    for _ in range(5_000):
        match choose(random, open_orders):
            case Action.QUOTE:
                open_orders += 1
            case Action.CANCEL:
                open_orders -= 1
        assert 0 <= open_orders <= OPEN_ORDERS_MAX
        most = max(most, open_orders)
    assert most == OPEN_ORDERS_MAX


@pytest.mark.parametrize("side", Side)
def test_quotes_stand_at_or_just_behind_the_best_price_of_their_side(side: Side) -> None:
    random, touch = Random(3), Touch(PriceTicks(1_000_000), PriceTicks(1_000_100))
    prices = [quote_price(random, side, touch) for _ in range(1_000)]
    farthest = 1_000_000 * QUOTE_DISTANCE_PPM_MAX // PPM
    if side is Side.BUY:
        assert touch.bid - farthest <= min(prices) < max(prices) <= touch.bid
    else:
        assert touch.ask <= min(prices) < max(prices) <= touch.ask + farthest + 1


def test_no_price_is_below_one_tick() -> None:
    assert quote_price(Random(4), Side.BUY, Touch(PriceTicks(1), PriceTicks(2))) == 1


@pytest.mark.parametrize("market", MARKETS, ids=lambda market: market.symbol)
def test_orders_are_worth_enough_and_affordable(market: Market) -> None:
    random, price = Random(5), price_of(market)
    owned = funds(market, price)
    for _ in range(1_000):
        quantity = order_quantity(random, market, price)
        assert market.quantity_min <= quantity <= market.quantity_max
        assert market.notional(PriceTicks(price * 9 // 10), quantity) >= market.notional_min
        assert market.notional(price, quantity) * OPEN_ORDERS_MAX < owned[market.quote]
        assert market.base_units(quantity) * OPEN_ORDERS_MAX < owned[market.base]


def test_an_order_s_id_says_when_it_was_sent_and_is_one_that_the_exchange_takes() -> None:
    ids = [timed_id(1_795_540_977_269_555_123, number) for number in range(1_000)]
    assert len(set(ids)) == len(ids)
    assert {sent_ns(each) for each in ids} == {1_795_540_977_269_555_123}
    assert max(len(each) for each in ids) <= 36


@pytest.mark.parametrize("other", ["", "x-123", "load-", "load-zz-1", "web_0f"])
def test_ids_of_others_say_nothing(other: str) -> None:
    assert sent_ns(other) is None


def test_a_trader_waits_for_the_next_window_before_its_order_limit_is_used_up() -> None:
    assert order_pause_ms(89, 100, 12_000) == 0
    assert order_pause_ms(90, 100, 12_000) == 8_000
    assert order_pause_ms(100, 100, 19_999) == 1
    assert order_pause_ms(1, 1, 20_000) == 10_000


def test_every_client_has_an_address_of_its_own_on_this_machine_and_none_elsewhere() -> None:
    addresses = [source_address("127.0.0.1", number) for number in range(5_000)]
    assert len(set(addresses)) == len(addresses)
    assert "127.0.0.1" not in addresses
    parts = [int(part) for address in addresses for part in address.split(".")]
    assert (min(parts), max(parts)) == (0, 250)
    assert source_address("exchange.example", 1) == ""
