"""What a book says an order would get is what one finds who looks at every order; and it looks at few."""

import random
from collections.abc import Iterator

import pytest

from engine_worker.core import book as book_module
from engine_worker.core.book import Book, BookSide
from protocol.orders import SelfTradePrevention, Side
from protocol.units import AccountId, OrderId, PriceTicks, QuantityLots

K = 3
"""Quote units for a lot at a tick."""


def walked(
    book: Book, side: Side, price: int, quantity: int, account_id: int, prevention: SelfTradePrevention
) -> tuple[int, int]:
    """The answer by the rules of self-trade prevention, order by order in priority."""
    found = cost = 0
    half = book.side(Side.SELL if side is Side.BUY else Side.BUY)
    for level in half.in_priority():
        if (level.price > price) if side is Side.BUY else (level.price < price):
            break
        for order in level.orders():
            if prevention is not SelfTradePrevention.NONE and order.account_id == account_id:
                if prevention is SelfTradePrevention.EXPIRE_MAKER:
                    continue
                return found, cost * K
            traded = min(order.quantity, quantity - found)
            found += traded
            cost += traded * level.price
    return found, cost * K


def check_blocks(half: BookSide) -> None:
    ranks = [rank for block in half.blocks for rank in block.ranks]
    assert ranks == sorted(half.levels)
    assert half.firsts == [block.ranks[0] for block in half.blocks]
    assert all(0 < len(block.ranks) < 2 * book_module.BLOCK_LEVELS for block in half.blocks)
    for block in half.blocks:
        levels = [half.levels[rank] for rank in block.ranks]
        assert all(level.block is block for level in levels)
        assert block.quantity == sum(level.quantity for level in levels)
        assert block.cost == sum(level.quantity * level.price for level in levels)
    assert half.best is (half.levels[ranks[0]] if ranks else None)
    orders = [order for level in half.levels.values() for order in level.orders()]
    assert sorted(order.order_id for own in half.own.values() for order in own.values()) == sorted(
        order.order_id for order in orders
    )
    assert all(own for own in half.own.values())


def steps(chosen: random.Random, book: Book, count: int) -> Iterator[None]:
    """Place, cancel and match at random, with times in which a side grows and times in which it shrinks."""
    order_id = 0
    for number in range(count):
        side, account = chosen.choice(list(Side)), AccountId(chosen.randrange(1, 5))
        offset = chosen.randrange(1, 60)
        price = PriceTicks(200 - offset if side is Side.BUY else 200 + offset)
        grows = number // 150 % 2 == 0
        action = chosen.random()
        if action < (0.75 if grows else 0.3):
            order_id += 1
            book.add(OrderId(order_id), account, side, price, chosen.randrange(1, 10))
        elif action < (0.9 if grows else 0.8) and book.orders:
            book.cancel(chosen.choice(list(book.orders)))
        else:
            reach = PriceTicks(200 + offset if side is Side.BUY else 200 - offset)
            prevention = chosen.choice(list(SelfTradePrevention))
            book.match(side, reach, QuantityLots(chosen.randrange(1, 60)), account, prevention, 2_000)
        yield


@pytest.mark.parametrize("seed", range(12))
def test_sums_are_what_one_counts_order_by_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "BLOCK_LEVELS", 4)
    chosen, book = random.Random(seed), Book(K)
    divided = joined = 0
    for _ in steps(chosen, book, 1_500):
        blocks = len(book.asks.blocks)
        for half in (book.bids, book.asks):
            check_blocks(half)
        divided, joined = max(divided, blocks), joined + (blocks < divided)
        side, prevention = chosen.choice(list(Side)), chosen.choice(list(SelfTradePrevention))
        price, quantity = PriceTicks(chosen.randrange(130, 270)), QuantityLots(chosen.randrange(1, 400))
        account = AccountId(chosen.randrange(1, 7))
        asked = (side, price, quantity, account, prevention)
        assert book.fillable(*asked) == walked(book, *asked)
    assert divided >= 4, "there were several blocks"
    assert joined, "and fewer again"


class Counting(dict[int, object]):
    """Levels, counting how many are looked at."""

    looked_at = 0

    def __getitem__(self, rank: int) -> object:
        self.looked_at += 1
        return super().__getitem__(rank)


def test_a_question_looks_at_the_levels_of_one_block() -> None:
    book = Book(K)
    for number in range(1, 200_001):
        book.add(OrderId(number), AccountId(1 + number % 1_000), Side.SELL, PriceTicks(number), 1)
    levels = Counting(book.asks.levels)
    book.asks.levels = levels  # type: ignore[assignment]
    assert len(book.asks.blocks) <= 2 * 200_000 / book_module.BLOCK_LEVELS
    for prevention in SelfTradePrevention:
        levels.looked_at = 0
        found, _ = book.fillable(
            Side.BUY, PriceTicks(150_000), QuantityLots(10**9), AccountId(2_000), prevention
        )
        assert found == 150_000
        assert levels.looked_at <= 2 * book_module.BLOCK_LEVELS
    levels.looked_at = 0
    found, _ = book.fillable(
        Side.BUY, PriceTicks(150_000), QuantityLots(10**9), AccountId(7), SelfTradePrevention.EXPIRE_MAKER
    )
    assert found == 150_000 - 150
    assert levels.looked_at <= 2 * book_module.BLOCK_LEVELS
