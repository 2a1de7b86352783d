"""Traders whose engine workers are killed, and what must hold of their orders afterwards."""

import itertools
import os
import secrets
import signal
import threading
from collections import Counter
from concurrent.futures import Future
from decimal import Decimal
from random import Random
from typing import Any

import httpx

from protocol import streams
from protocol.codec import decode_replies, encode_frame
from protocol.replies import AuditQuery, AuditReply
from runtime import redis_clients
from tests.support.api import Api, RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange

SYMBOL = "ETHUSDT"


CLIENTS = 4


ORDERS_BETWEEN_KILLS = 30


ORDER_INTERVAL_S = 0.15
"""Below the order limit of an account: 100 in 10 s."""


DEPOSITS = {"USDT": Decimal(1_000_000), "ETH": Decimal(300)}


UNKNOWN = (-1001, -1007, -1008)


EMPTY = "Order book liquidity is less than symbol minimum quantity."
"""What a MARKET order is told where nobody has traded and nobody rests."""


class Trader:
    """One client: places orders one after the other, and asks again until it knows what became of each."""

    def __init__(self, url: str, number: int) -> None:
        self.api = new_account(url, **{asset: str(amount) for asset, amount in DEPOSITS.items()})
        self.outcomes: dict[str, Any] = {}
        """The first acknowledgement of every client order id."""
        self._name = f"kill-{number}"
        self._random = Random(number)

    def trade(self, stop: threading.Event) -> None:
        """Trade until told to stop; the order under way is always brought to its end."""
        for number in itertools.count():
            client_order_id = f"{self._name}-{number}"
            try:
                self.outcomes[client_order_id] = self._outcome(client_order_id, self._order())
            except RefusedError as refusal:
                if refusal.message != EMPTY:
                    raise
            if stop.wait(ORDER_INTERVAL_S):
                return

    def _order(self) -> dict[str, str]:
        side = self._random.choice(("BUY", "SELL"))
        quantity = f"{self._random.randint(20, 400) / 10_000:.4f}"
        if self._random.random() < 0.5:
            return {"side": side, "type": "MARKET", "quantity": quantity}
        book = {"BUY": "bidPrice", "SELL": "askPrice"}
        best = Decimal(self._until_answered("GET", "/api/v3/ticker/bookTicker", symbol=SYMBOL)[book[side]])
        price = (best if best else Decimal(3_500)) + self._random.randint(-100, 100) * Decimal("0.01")
        return {
            "side": side,
            "type": "LIMIT",
            "timeInForce": "GTC",
            "quantity": quantity,
            "price": f"{price:.2f}",
        }

    def _outcome(self, client_order_id: str, order: dict[str, str]) -> Any:
        # An earlier try may have been carried out although its answer was lost; the key makes it the same
        # one.
        names = {"newClientOrderId": client_order_id, "idempotencyKey": client_order_id}
        return self._until_answered("POST", "/api/v3/order", symbol=SYMBOL, **names, **order)

    def _until_answered(self, method: str, path: str, **parameters: str) -> Any:
        call = self.api.signed if path == "/api/v3/order" else _public(self.api)

        def ask() -> Any:
            try:
                return call(method, path, **parameters)
            except RefusedError as refusal:
                if refusal.code in UNKNOWN:
                    return None
                raise
            except httpx.TransportError:
                return None

        return eventually(f"an answer to {method} {path}", ask, timeout_s=30)


def _public(api: Api) -> Any:
    return lambda _method, path, **parameters: api.get(path, **parameters)


def wait_for_orders(
    traders: list[Trader], running: list[Future[None]], count: int = ORDERS_BETWEEN_KILLS
) -> None:
    goal = sum(len(trader.outcomes) for trader in traders) + count

    def acknowledged() -> bool:
        for each in running:
            if each.done():
                each.result()
        return sum(len(trader.outcomes) for trader in traders) >= goal

    eventually("orders acknowledged", acknowledged, timeout_s=60)


def kill_and_await_restart(exchange: RunningExchange, turn: int) -> None:
    workers = [(each.name, each.pid) for each in exchange.processes() if each.name.startswith("engine")]
    name, pid = workers[turn % len(workers)]
    os.kill(pid, signal.SIGKILL)

    def restarted() -> bool:
        return any(each.name == name and each.pid not in (0, pid) for each in exchange.processes())

    eventually("the engine's restart", restarted)


def every_acknowledged_order_is_there(trader: Trader) -> None:
    def history() -> Counter[str] | None:
        orders = Counter(each["clientOrderId"] for each in all_orders(trader.api))
        return orders if orders.keys() >= trader.outcomes.keys() else None

    counts = eventually("every order in the history", history)
    assert counts == Counter(dict.fromkeys(trader.outcomes, 1))
    for client_order_id, acknowledged in trader.outcomes.items():
        order = trader.api.signed("GET", "/api/v3/order", symbol=SYMBOL, origClientOrderId=client_order_id)
        for name in ("orderId", "price", "origQty", "side", "type"):
            assert order[name] == acknowledged[name]
        assert Decimal(order["executedQty"]) >= Decimal(acknowledged["executedQty"])


def all_orders(api: Api) -> list[Any]:
    orders: list[Any] = []
    while True:
        following = orders[-1]["orderId"] + 1 if orders else 1
        page = api.signed("GET", "/api/v3/allOrders", symbol=SYMBOL, orderId=following, limit=1000)
        orders += page
        if len(page) < 1000:
            return orders


def balances_are_what_the_fills_say(api: Api) -> None:
    api_orders = api.signed("GET", "/api/v3/openOrders", symbol=SYMBOL)
    if api_orders:
        api.signed("DELETE", "/api/v3/openOrders", symbol=SYMBOL)
    expected = dict(DEPOSITS)
    balances = {asset: amounts for asset, amounts in api.balances().items() if asset in DEPOSITS}
    assert all(locked == 0 for _, locked in balances.values())

    def from_fills() -> bool:
        expected.update(DEPOSITS)
        for trade in api.my_trades(SYMBOL):
            sign = 1 if trade["isBuyer"] else -1
            expected["ETH"] += sign * Decimal(trade["qty"])
            expected["USDT"] -= sign * Decimal(trade["quoteQty"])
            expected[trade["commissionAsset"]] -= Decimal(trade["commission"])
        return expected == {asset: free for asset, (free, _) in balances.items()}

    eventually("balances that equal deposits and fills", from_fills)


def trades_are_contiguous(traders: list[Trader]) -> bool:
    ids = [each["id"] for each in traders[0].api.historical_trades(SYMBOL)]
    assert ids == list(range(1, len(ids) + 1))
    mine = {each["id"] for trader in traders for each in trader.api.my_trades(SYMBOL)}
    return bool(mine) and mine <= set(ids)


def money_adds_up(exchange: RunningExchange) -> bool:
    """Whether what all shards hold of each asset is what was paid in, to the unit, with nothing on its way
    between them."""
    audits = [audit(exchange, shard) for shard in range(exchange.settings.shard_count)]
    totals: Counter[str] = Counter()
    in_flight: Counter[str] = Counter()
    for asset, available, held, fees, deposited, withdrawn, settled in itertools.chain(
        *(each.rows for each in audits)
    ):
        assert available + held + fees == deposited - withdrawn + settled
        totals[asset] += available + held + fees - deposited + withdrawn
        in_flight[asset] += settled
    return set(totals) >= set(DEPOSITS) and not any(totals.values()) and not any(in_flight.values())


def audit(exchange: RunningExchange, shard: int) -> AuditReply:
    """Ask one shard for its books of money, the way the gateway asks."""
    with redis_clients.client(exchange.settings.resolved_redis_url()) as client, client.pubsub() as channel:
        name = secrets.token_hex(8)
        channel.subscribe(streams.replies(name))
        eventually("a subscription", channel.get_message)
        client.xadd(streams.queries(shard), {streams.QUERIES_FIELD: encode_frame([AuditQuery(1, name)])})
        message = eventually("the audit", channel.get_message)
    (reply,) = decode_replies(message["data"])
    assert isinstance(reply, AuditReply)
    return reply
