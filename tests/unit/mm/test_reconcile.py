from hypothesis import given
from hypothesis import strategies as st

from mm.quoting import Quote
from mm.reconcile import OpenQuote, Tolerance, reconcile
from protocol.orders import Side
from protocol.units import PPM, OrderId, PriceTicks, QuantityLots

LOOSE = Tolerance(quantity_ppm_min=PPM // 4, quantity_ppm_max=2 * PPM)


def quote(side: Side, price: int, quantity: int) -> Quote:
    return Quote(side, PriceTicks(price), QuantityLots(quantity))


def resting(order_id: int, side: Side, price: int, quantity: int) -> OpenQuote:
    return OpenQuote(OrderId(order_id), side, PriceTicks(price), QuantityLots(quantity))


sides = st.sampled_from(Side)
prices = st.integers(1, 8)
quantities = st.integers(1, 8)
desired_sets = st.dictionaries(st.tuples(sides, prices), quantities).map(
    lambda by_place: [quote(side, price, quantity) for (side, price), quantity in by_place.items()]
)
open_sets = st.lists(st.tuples(sides, prices, quantities)).map(
    lambda rows: [resting(order_id, *row) for order_id, row in enumerate(rows, 1)]
)


def test_a_good_quote_stays_and_a_stale_one_goes() -> None:
    good, stale = resting(1, Side.BUY, 99, 10), resting(2, Side.BUY, 90, 10)
    changes = reconcile([quote(Side.BUY, 99, 12), quote(Side.BUY, 98, 12)], [stale, good], LOOSE)
    assert changes.cancels == (stale,)
    assert changes.placements == (quote(Side.BUY, 98, 12),)


def test_what_is_nearly_used_up_is_replaced() -> None:
    changes = reconcile([quote(Side.SELL, 101, 100)], [resting(1, Side.SELL, 101, 24)], LOOSE)
    assert [each.order_id for each in changes.cancels] == [1]
    assert changes.placements == (quote(Side.SELL, 101, 100),)


def test_what_is_too_large_is_replaced() -> None:
    changes = reconcile([quote(Side.SELL, 101, 10)], [resting(1, Side.SELL, 101, 21)], LOOSE)
    assert len(changes.cancels) == len(changes.placements) == 1


def test_of_two_at_one_price_one_goes() -> None:
    changes = reconcile(
        [quote(Side.BUY, 99, 10)], [resting(1, Side.BUY, 99, 10), resting(2, Side.BUY, 99, 10)], LOOSE
    )
    assert [each.order_id for each in changes.cancels] == [2]
    assert changes.placements == ()


@given(desired=desired_sets, open_quotes=open_sets)
def test_without_tolerance_it_leads_to_exactly_the_desired_set(
    desired: list[Quote], open_quotes: list[OpenQuote]
) -> None:
    changes = reconcile(desired, open_quotes, Tolerance())
    kept = [each for each in open_quotes if each not in changes.cancels]
    after = [Quote(each.side, each.price, each.quantity) for each in kept] + list(changes.placements)
    assert sorted(after) == sorted(desired)


@given(desired=desired_sets, open_quotes=open_sets)
def test_every_desired_quote_is_stood_for_once_and_nothing_good_is_touched(
    desired: list[Quote], open_quotes: list[OpenQuote]
) -> None:
    changes = reconcile(desired, open_quotes, LOOSE)
    kept = [each for each in open_quotes if each not in changes.cancels]
    wanted = [each for each in desired if each not in changes.placements]
    assert len(kept) == len(wanted)
    assert all(sum(LOOSE.accepts(each, one) for each in kept) == 1 for one in wanted)
    assert not any(LOOSE.accepts(each, one) for each in changes.cancels for one in changes.placements)


@given(desired=desired_sets, open_quotes=open_sets)
def test_a_second_look_changes_nothing(desired: list[Quote], open_quotes: list[OpenQuote]) -> None:
    changes = reconcile(desired, open_quotes, LOOSE)
    kept = [each for each in open_quotes if each not in changes.cancels]
    placed = [OpenQuote(OrderId(1_000 + n), *each) for n, each in enumerate(changes.placements)]
    assert reconcile(desired, kept + placed, LOOSE) == ((), ())
