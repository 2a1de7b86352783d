"""Calling any function of the API with what it requires and nothing else."""

from typing import Final

import httpx

from functions.api.function import Function, Security
from tests.support.api import Api, now_ms, signature_of

VALUES: Final = {
    "symbol": "BTCUSDT",
    "coin": "BTC",
    "fromId": 1,
    "interval": "1m",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.001",
    "price": "20000",
    "orderId": "999999",
    "apiKey": "k" * 64,
    "listenKey": "l" * 64,
}


BODIES: Final = {
    "email": "other@example.com",
    "password": "a long password",
    "label": "test",
    "asset": "USDT",
    "amount": "1",
}


def called(api: Api, token: str, function: Function) -> httpx.Response:
    """Call a function with what it needs and nothing else."""
    names = {each.name for each in function.parameters}
    # Asked for by number, so that the shard does not know it and the database is asked.
    wanted = {each.name for each in function.parameters if each.required} | (
        {"orderId", "apiKey", "listenKey"} & names
    )
    if function.path in ("/api/v3/ticker", "/api/v3/ticker/tradingDay"):
        wanted |= {"symbol"}  # or symbols
    if function.places_order:
        wanted |= {"timeInForce", "quantity", "price"}
    query = "&".join(f"{name}={VALUES[name]}" for name in sorted(wanted))
    if function.security in (Security.SIGNED, Security.OWNER):
        query = f"{query}&timestamp={now_ms()}".lstrip("&")
        query += f"&signature={signature_of(api.secret, query)}"
    headers = {"Authorization": f"Bearer {token}"} if function.security is Security.SESSION else {}
    body = {"json": BODIES} if function.body is not None else {}
    return api.http.request(function.method, f"{function.path}?{query}".rstrip("?"), headers=headers, **body)  # type: ignore[arg-type]
