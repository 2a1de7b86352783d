"""When a market counts as liquid."""

from tests.support.api import Api
from tests.support.eventually import TIMEOUT_S, eventually

LEVELS = 10


def is_liquid(public: Api, symbol: str) -> bool:
    """Whether the book has enough levels on both sides and there was a trade."""
    book = public.get("/api/v3/depth", symbol=symbol)
    trades = public.get("/api/v3/trades", symbol=symbol)
    return len(book["bids"]) >= LEVELS and len(book["asks"]) >= LEVELS and bool(trades)


def wait_until_liquid(url: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until every market of the exchange at `url` is."""
    public = Api(url)
    symbols = [each["symbol"] for each in public.get("/api/v3/exchangeInfo")["symbols"]]
    eventually("liquid markets", lambda: all(is_liquid(public, symbol) for symbol in symbols), timeout_s)
