import pytest

from tests.support.api import Api
from tests.support.liquidity import wait_until_liquid
from tests.support.running_exchange import RunningExchange


def test_every_market_has_a_two_sided_book_and_trades(exchange: RunningExchange) -> None:
    symbols = {each["symbol"] for each in Api(exchange.url).get("/api/v3/exchangeInfo")["symbols"]}
    assert symbols >= {"BTCUSDT", "ETHUSDT", "SOLUSDT"}
    wait_until_liquid(exchange.url, timeout_s=10)


@pytest.mark.usefixtures("liquid")
def test_no_book_is_crossed_and_every_level_is_on_the_grid(exchange_url: str) -> None:
    public = Api(exchange_url)
    for definition in public.get("/api/v3/exchangeInfo")["symbols"]:
        book = public.get("/api/v3/depth", symbol=definition["symbol"], limit=1000)
        bids, asks = [float(price) for price, _ in book["bids"]], [float(price) for price, _ in book["asks"]]
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] < asks[0]
