"""Everything stops and starts again: what was there before is there after."""

from pathlib import Path
from typing import Any

from tests.support.api import Api, new_account
from tests.support.eventually import eventually
from tests.support.liquidity import is_liquid
from tests.support.running_exchange import running_exchange

SYMBOL = "SOLUSDT"


# Takes long: an exchange is started twice.
def test_a_restart_of_everything_loses_nothing(data_dir: Path) -> None:
    with running_exchange(data_dir) as exchange:
        public = Api(exchange.url)
        symbols = [each["symbol"] for each in public.get("/api/v3/exchangeInfo")["symbols"]]
        eventually(
            "liquid markets soon after ready",
            lambda: all(is_liquid(public, each) for each in symbols),
        )
        account = new_account(exchange.url, USDT="10000", SOL="10")
        account.order(SYMBOL, "BUY", "LIMIT", quantity="1", price="100", newClientOrderId="resting")
        account.order(SYMBOL, "BUY", "MARKET", quantity="2")
        eventually("its trades in the history", lambda: account.my_trades(SYMBOL))
        before = what_an_account_sees(account)
        candles = eventually("a candle", lambda: closed_candles(public))

    # The market maker stays away, so that nothing new happens to what is compared.
    with running_exchange(data_dir, mm_enabled="false") as exchange:
        account = Api(exchange.url, account.key, account.secret)
        assert what_an_account_sees(account) == before
        eventually("the same candles", lambda: closed_candles(account)[: len(candles)] == candles)
        assert [each["clientOrderId"] for each in account.signed("GET", "/api/v3/openOrders")] == ["resting"]
        book = account.get("/api/v3/depth", symbol=SYMBOL)
        assert book == {
            "lastUpdateId": book["lastUpdateId"],
            "bids": [["100.00000000", "1.00000000"]],
            "asks": [],
        }
        order = account.order(SYMBOL, "SELL", "LIMIT", quantity="1", price="110")
        assert order["orderId"] > max(each["orderId"] for each in before["orders"])


def what_an_account_sees(account: Api) -> dict[str, Any]:
    """Return everything about itself that an account can ask for."""
    return {
        "balances": account.balances(),
        "open orders": account.signed("GET", "/api/v3/openOrders"),
        "orders": account.signed("GET", "/api/v3/allOrders", symbol=SYMBOL),
        "trades": account.my_trades(SYMBOL),
    }


def closed_candles(api: Api) -> list[Any]:
    """Return the first candles of a second each that had trades."""
    return [each for each in api.get("/api/v3/klines", symbol=SYMBOL, interval="1s", limit=1000) if each[8]][
        :3
    ]
