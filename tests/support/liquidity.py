"""When a market counts as liquid."""

from tests.support.api import Api

LEVELS = 10


def is_liquid(public: Api, symbol: str) -> bool:
    """Whether the book has enough levels on both sides and there was a trade."""
    book = public.get("/api/v3/depth", symbol=symbol)
    trades = public.get("/api/v3/trades", symbol=symbol)
    return len(book["bids"]) >= LEVELS and len(book["asks"]) >= LEVELS and bool(trades)
