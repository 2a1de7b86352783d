"""What the accounts of the load do: orders of every kind around a wandering price, cancels, deposits.

Pure, from a seeded source.
"""

import random
from typing import Final, NamedTuple

from lab.chaos.evidence import SentOrder, is_final
from protocol.market import Market, MarketMap
from protocol.orders import OrderType, Side, TimeInForce
from protocol.units import UNITS_PER_ASSET

OPEN_ORDERS_MAX: Final = 40
"""Per account; with more it cancels."""
DEPOSIT_SHARE: Final = 0.002
CANCEL_SHARE: Final = 0.12
FUNDS: Final = {"USDT": 10_000_000, "BTC": 100, "ETH": 3_000, "SOL": 50_000}
"""What an account begins with, in whole units."""
_START_PRICES: Final = {"BTCUSDT": 100_000, "ETHUSDT": 3_500, "SOLUSDT": 150}
_NOTIONAL: Final = (50, 3_000)
"""What an order is worth, in whole units of the quote."""
_UNAFFORDABLE_SHARE: Final = 0.005


class Cancel(NamedTuple):
    """A request to cancel an order."""

    order: SentOrder


class Deposit(NamedTuple):
    """A request to the faucet; the amount is in units."""

    asset: str
    amount: int


Wish = SentOrder | Cancel | Deposit


class Trading:
    """Draws the requests of all accounts from a seed."""

    def __init__(
        self, markets: MarketMap, accounts: list[int], seed: int, deposit_share: float = DEPOSIT_SHARE
    ) -> None:
        self._random = random.Random(seed)
        self._deposit_share = deposit_share
        self._markets = [market for market in markets.markets if market.symbol in _START_PRICES]
        self._accounts = accounts
        self._mids = {
            market.symbol: _START_PRICES[market.symbol] * UNITS_PER_ASSET // market.tick_size
            for market in self._markets
        }
        self._open: dict[int, list[SentOrder]] = {account_id: [] for account_id in accounts}
        self._count = 0

    def list_market(self, market: Market) -> None:
        """Trade in a market that was listed, about as in the one that it is like."""
        like = next(symbol for symbol, _ in _START_PRICES.items() if symbol.startswith(market.base))
        self._mids[market.symbol] = _START_PRICES[like] * UNITS_PER_ASSET // market.tick_size
        self._markets = [*self._markets, market]

    def delist_market(self, symbol: str) -> None:
        """Place no more orders in a market."""
        self._markets = [market for market in self._markets if market.symbol != symbol]

    def wish(self) -> tuple[int, Wish]:
        """Return the next request: (account, order, cancel or deposit)."""
        dice = self._random
        account_id = self._accounts[dice.randrange(len(self._accounts))]
        mine, drawn = self._open[account_id], dice.random()
        if drawn < self._deposit_share:
            asset = dice.choice(list(FUNDS))
            return account_id, Deposit(asset, dice.randint(1, 1_000) * UNITS_PER_ASSET // 100)
        if mine and (drawn < self._deposit_share + CANCEL_SHARE or len(mine) > OPEN_ORDERS_MAX):
            place = 0 if len(mine) > OPEN_ORDERS_MAX else dice.randrange(len(mine))
            return account_id, Cancel(mine.pop(place))
        return account_id, self._order(account_id)

    def placed(self, order: SentOrder) -> None:
        """Record an answered order; if it is open, it may be canceled later."""
        answer = order.acknowledged
        if answer is not None and not is_final(answer.status):
            self._open[order.account_id].append(order)

    def _order(self, account_id: int) -> SentOrder:
        dice = self._random
        market = dice.choice(self._markets)
        self._mids[market.symbol] += dice.choice((-1, 0, 0, 1))
        self._count += 1
        side, drawn = dice.choice((Side.BUY, Side.SELL)), dice.random()
        worth = dice.randint(*_NOTIONAL) * UNITS_PER_ASSET
        mid = self._mids[market.symbol]
        quantity = max(market.quantity_min, worth // (mid * market.quote_per_tick_lot))
        kind, tif, offset = OrderType.LIMIT, TimeInForce.GTC, dice.randint(-10, 150)
        if drawn < 0.10:
            kind = OrderType.LIMIT_MAKER
        elif drawn < 0.20:
            return SentOrder(
                self._count,
                account_id,
                market.symbol,
                side,
                OrderType.MARKET,
                TimeInForce.IOC,
                0,
                quantity,
                0,
            )
        elif drawn < 0.23:
            return SentOrder(
                self._count, account_id, market.symbol, side, OrderType.MARKET, TimeInForce.IOC, 0, 0, worth
            )
        elif drawn < 0.38:
            tif, offset = TimeInForce.IOC, -dice.randint(0, 60)
        elif drawn < 0.48:
            tif, offset = TimeInForce.FOK, -dice.randint(0, 60)
        if dice.random() < _UNAFFORDABLE_SHARE:
            quantity = market.quantity_max
        price = mid - offset if side is Side.BUY else mid + offset
        return SentOrder(self._count, account_id, market.symbol, side, kind, tif, price, quantity, 0)
