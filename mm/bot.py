"""The shell around quoting and reconcile: reads the exchange, sends changes, and survives its outages."""

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Any, Final

import prometheus_client
import structlog

from client.rest import FAILURES, ApiError, Client
from mm.accounts import KEY_REFUSED, Account, Accounts, deposit
from mm.quoting import (
    INVENTORY_SIDES,
    Quote,
    QuotingPlan,
    desired_quotes,
    next_reference,
    quoted_reference,
    random_taking,
)
from mm.quoting_state import Activity, Pause
from mm.reconcile import OpenQuote, Tolerance, reconcile
from protocol.market import Market
from protocol.orders import Side
from protocol.units import PPM, AssetUnits, OrderId, PriceTicks, QuantityLots, format_decimal, parse_decimal

UNKNOWN_ORDER: Final = -2011
TOLERANCE: Final = Tolerance(quantity_ppm_min=PPM // 4, quantity_ppm_max=2 * PPM)
"""A quote is left alone until three quarters of it are taken."""
OPEN_ORDERS_EVERY: Final = 3
"""Turns between two reads of the open orders, which show fills."""
FUNDS_INTERVAL_S: Final = 10
ORDER_WINDOW_S: Final = 10
ORDER_WINDOW_PERCENT: Final = 95
"""How much of its order limit the maker makes use of."""
BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0)
STOP_S_MAX: Final = 3

_log = structlog.get_logger()

_quotes = prometheus_client.Gauge("mm_open_quotes", "Quotes that rest", ["market", "side"])
_spread = prometheus_client.Gauge(
    "mm_spread_ratio", "Between the maker's own best quotes, as a part of the price", ["market"]
)
_placed = prometheus_client.Counter("mm_quotes_placed", "Quotes placed", ["market"])
_canceled = prometheus_client.Counter("mm_quotes_canceled", "Quotes taken back", ["market"])
_refused = prometheus_client.Counter("mm_quotes_refused", "Quotes that were refused", ["market"])


class OrderBudget:
    """The orders that an account may still place in the running window."""

    def __init__(self, orders_max: int) -> None:
        self._orders_max = orders_max
        self._placed: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Count one order at `now` (seconds, monotonic). Return whether there was room for it."""
        while self._placed and self._placed[0] <= now - ORDER_WINDOW_S:
            self._placed.popleft()
        if len(self._placed) >= self._orders_max:
            return False
        self._placed.append(now)
        return True


class Funds:
    """The holdings of one account by asset: available plus held."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._totals: dict[str, AssetUnits] = {}

    async def refresh(self, client: Client, targets: Mapping[str, AssetUnits]) -> None:
        """Read the exchange, and request faucet funds where they do not suffice for one side of quotes."""
        await self._read(client)
        for asset, target in targets.items():
            missing = AssetUnits(target - self.total(asset))
            if self.total(asset) * (INVENTORY_SIDES + 2) >= target:
                continue
            try:
                await deposit(client, self.account, asset, format_decimal(missing))
            except ApiError as error:
                _log.warning("faucet refused", asset=asset, amount=format_decimal(missing), error=str(error))
            else:
                _log.info("funded", asset=asset, amount=format_decimal(missing))
                await self._read(client)

    def total(self, asset: str) -> AssetUnits:
        """Return the last known holding in the asset's units; 0 if there is none."""
        return self._totals.get(asset, AssetUnits(0))

    def inventory(self, plan: QuotingPlan) -> QuantityLots:
        """Return the base holding less its target, in lots."""
        return QuantityLots(self.total(plan.market.base) // plan.market.lot_size - plan.base_target)

    async def _read(self, client: Client) -> None:
        answer = await client.signed(self.account.keys, "GET", "/api/v3/account")
        self._totals = {
            balance["asset"]: AssetUnits(parse_decimal(balance["free"]) + parse_decimal(balance["locked"]))
            for balance in answer["balances"]
        }


class Bot:
    """Quotes every market with one account and takes at random with another, until it is canceled."""

    def __init__(
        self,
        client: Client,
        accounts: Accounts,
        plans: Sequence[QuotingPlan],
        *,
        requote_ms: int,
        orders_max: int,
        random: Random,
        activity: Activity,
    ) -> None:
        self._client = client
        self._plans = plans
        self._maker = Funds(accounts.maker)
        self._taker = Funds(accounts.taker)
        self._targets = _targets(plans)
        self._quote_users = Counter(plan.market.quote for plan in plans)
        self._requote_s = requote_ms / 1_000
        self._budget = OrderBudget(orders_max * ORDER_WINDOW_PERCENT // 100)
        self._random = random
        self._activity = activity
        for symbol in (plan.market.symbol for plan in plans):
            for counter in (_placed, _canceled, _refused):
                counter.labels(symbol)  # at 0, so that the first one is seen as an increase
            for side in Side:
                _quotes.labels(symbol, side.name)

    async def run(self) -> None:
        """Trade until canceled.

        Raises:
            ApiError: (in a group) an account's key is refused; new accounts are needed.
        """
        await self._refresh_funds()
        async with asyncio.TaskGroup() as tasks:
            for plan in self._plans:
                tasks.create_task(self._quote(plan))
            tasks.create_task(self._take())
            tasks.create_task(self._watch_funds())

    async def cancel_all(self) -> None:
        """Cancel every quote, as far as the exchange is reachable."""
        for plan in self._plans:
            symbol = plan.market.symbol
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await self._signed(self._maker, "DELETE", "/api/v3/openOrders", symbol=symbol)
            except (*FAILURES, TimeoutError) as error:
                if not _is_unknown_order(error):
                    _log.warning("quotes not canceled", market=symbol, error=repr(error))
                    continue
            for side in Side:
                _quotes.labels(symbol, side.name).set(0)

    async def _quote(self, plan: QuotingPlan) -> None:
        market = plan.market
        reference = quoted = plan.anchor
        open_quotes: dict[OrderId, OpenQuote] = {}
        failures = 0
        for turn in itertools.count():
            try:
                if failures or turn % OPEN_ORDERS_EVERY == 0:
                    open_quotes = await self._open_quotes(market)
                reference = next_reference(plan, reference, self._random)
                quoted = quoted_reference(plan, quoted, reference)
                quote_funds = AssetUnits(self._maker.total(market.quote) // self._quote_users[market.quote])
                desired = desired_quotes(plan, quoted, self._maker.inventory(plan), quote_funds, self._random)
                await self._carry_out(market, desired, open_quotes)
            except FAILURES as error:
                # Requests in progress may have been executed: the open orders are read again before anything
                # else is sent.
                failures += 1
                await self._back_off(failures, error, market.symbol)
            else:
                failures = 0
                self._activity.quoted(market.symbol)
                _measure(market, open_quotes.values())
                await asyncio.sleep(self._requote_s)

    async def _open_quotes(self, market: Market) -> dict[OrderId, OpenQuote]:
        orders = await self._signed(self._maker, "GET", "/api/v3/openOrders", symbol=market.symbol)
        return {quote.order_id: quote for quote in (_open_quote(market, order) for order in orders)}

    async def _carry_out(
        self, market: Market, desired: Sequence[Quote], open_quotes: dict[OrderId, OpenQuote]
    ) -> None:
        """Send the missing orders, and update `open_quotes`.

        Orders beyond the budget wait for the next turn.
        """
        changes = reconcile(desired, open_quotes.values(), TOLERANCE)
        # Cancels first: they free the funds and the places in the book that placements need.
        for stale in changes.cancels:
            try:
                await self._signed(
                    self._maker, "DELETE", "/api/v3/order", symbol=market.symbol, orderId=stale.order_id
                )
            except ApiError as error:
                if not _is_unknown_order(error):
                    raise
            _canceled.labels(market.symbol).inc()
            del open_quotes[stale.order_id]
        refused_sides: set[Side] = set()
        for quote in changes.placements:
            if quote.side in refused_sides:
                continue
            if not self._budget.take(time.monotonic()):
                return
            try:
                placed = await self._place(market, quote)
            except ApiError as error:
                if error.code in KEY_REFUSED:
                    raise
                # Mostly for want of funds, which the side's other quotes lack as well.
                refused_sides.add(quote.side)
                _refused.labels(market.symbol).inc()
                _log.warning("quote refused", market=market.symbol, side=quote.side.name, error=str(error))
            else:
                _placed.labels(market.symbol).inc()
                if placed.quantity:
                    open_quotes[placed.order_id] = placed

    async def _place(self, market: Market, quote: Quote) -> OpenQuote:
        # Not post-only: if somebody offers a better price than the quote, taking it brings the book back in
        # line.
        order = await self._signed(
            self._maker,
            "POST",
            "/api/v3/order",
            symbol=market.symbol,
            side=quote.side.name,
            type="LIMIT",
            timeInForce="GTC",
            price=market.format_price(quote.price),
            quantity=market.format_quantity(quote.quantity),
            newOrderRespType="RESULT",
        )
        return _open_quote(market, order)

    async def _take(self) -> None:
        failures = 0
        for plan in itertools.cycle(self._plans):
            # Two takings, of one market after the other, in the time of one turn of quoting.
            await asyncio.sleep(self._requote_s * self._random.uniform(0.2, 0.8))
            side, quantity = random_taking(plan, self._taker.inventory(plan), self._random)
            try:
                await self._signed(
                    self._taker,
                    "POST",
                    "/api/v3/order",
                    symbol=plan.market.symbol,
                    side=side.name,
                    type="MARKET",
                    quantity=plan.market.format_quantity(quantity),
                    newOrderRespType="ACK",
                )
            except FAILURES as error:
                failures += 1
                await self._back_off(failures, error, plan.market.symbol)
            else:
                failures = 0

    async def _watch_funds(self) -> None:
        while True:
            await asyncio.sleep(FUNDS_INTERVAL_S)
            await self._refresh_funds()

    async def _refresh_funds(self) -> None:
        for funds in (self._maker, self._taker):
            for failures in itertools.count(1):
                try:
                    await funds.refresh(self._client, self._targets)
                    break
                except FAILURES as error:
                    await self._back_off(failures, error, "funds")

    async def _signed(self, funds: Funds, method: str, path: str, **parameters: str | int) -> Any:
        return await self._client.signed(funds.account.keys, method, path, **parameters)

    async def _back_off(self, failures: int, error: Exception, subject: str) -> None:
        if isinstance(error, ApiError) and error.code in KEY_REFUSED:
            raise error
        seconds = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
        self._activity.paused(Pause.EXCHANGE)
        _log.warning("trying again", subject=subject, error=str(error), seconds=seconds)
        await asyncio.sleep(seconds)


def _measure(market: Market, quotes: Collection[OpenQuote]) -> None:
    by_side = {side: [quote.price for quote in quotes if quote.side is side] for side in Side}
    for side, prices in by_side.items():
        _quotes.labels(market.symbol, side.name).set(len(prices))
    if by_side[Side.BUY] and by_side[Side.SELL]:
        best_bid, best_ask = max(by_side[Side.BUY]), min(by_side[Side.SELL])
        _spread.labels(market.symbol).set((best_ask - best_bid) / best_ask)


def _is_unknown_order(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.code == UNKNOWN_ORDER


def _targets(plans: Sequence[QuotingPlan]) -> dict[str, AssetUnits]:
    targets: Counter[str] = Counter()
    for plan in plans:
        targets[plan.market.base] += plan.market.base_units(plan.base_target)
        targets[plan.market.quote] += plan.quote_target
    return {asset: AssetUnits(units) for asset, units in targets.items()}


def _open_quote(market: Market, order: Mapping[str, Any]) -> OpenQuote:
    leaves = parse_decimal(order["origQty"]) - parse_decimal(order["executedQty"])
    return OpenQuote(
        OrderId(order["orderId"]),
        Side[order["side"]],
        PriceTicks(parse_decimal(order["price"]) // market.tick_size),
        QuantityLots(leaves // market.lot_size),
    )
