"""The public API as a test sees it: signed requests, whole answers, and waiting with a deadline."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
import pytest

T = TypeVar("T")

TIMEOUT_S = 60
POLL_S = 0.1


class RefusedError(Exception):
    """An answer other than 2xx."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code} {response.text[:500]}")
        self.status = response.status_code
        self.headers = response.headers
        self.code = response.json()["code"]
        self.message = response.json()["msg"]


class Api:
    """One account at the exchange at `url`; without a key only what is public works."""

    def __init__(self, url: str, key: str = "", secret: str = "") -> None:
        self.url = url
        self.key = key
        self.secret = secret
        self.http = httpx.Client(
            base_url=url, timeout=TIMEOUT_S, headers={"X-MBX-APIKEY": key} if key else {}
        )

    def get(self, path: str, **parameters: str | int) -> Any:
        """Ask something public."""
        return _answer(self.http.get(path, params=parameters))

    def signed(self, method: str, path: str, **parameters: str | int) -> Any:
        """Send a signed request, everything in the query."""
        return _answer(self.send(method, path, urlencode({**parameters, "timestamp": now_ms()})))

    def send(self, method: str, path: str, query: str) -> httpx.Response:
        """Sign `query` as it is, and send it."""
        return self.http.request(method, f"{path}?{query}&signature={signature_of(self.secret, query)}")

    def order(self, symbol: str, side: str, order_type: str, **parameters: str | int) -> Any:
        """Place an order; a LIMIT order is GTC unless it says otherwise."""
        if order_type == "LIMIT":
            parameters = {"timeInForce": "GTC", **parameters}
        return self.signed("POST", "/api/v3/order", symbol=symbol, side=side, type=order_type, **parameters)

    def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Return (free, locked) by asset."""
        account = self.signed("GET", "/api/v3/account")
        return {
            each["asset"]: (Decimal(each["free"]), Decimal(each["locked"])) for each in account["balances"]
        }

    def my_trades(self, symbol: str) -> list[Any]:
        """Return all trades of the account in `symbol`, oldest first."""
        return list(self._pages("/api/v3/myTrades", symbol))

    def historical_trades(self, symbol: str, from_id: int = 1) -> list[Any]:
        """Return all trades of `symbol` from `from_id` on, oldest first, from the database."""
        return list(self._pages("/api/v3/historicalTrades", symbol, from_id))

    def _pages(self, path: str, symbol: str, from_id: int = 1) -> Iterator[Any]:
        while True:
            call = self.signed if path == "/api/v3/myTrades" else self._with_key
            page = call("GET", path, symbol=symbol, fromId=from_id, limit=1000)
            yield from page
            if len(page) < 1000:
                return
            from_id = page[-1]["id"] + 1

    def _with_key(self, method: str, path: str, **parameters: str | int) -> Any:
        return _answer(self.http.request(method, path, params=parameters))


def new_account(url: str, **deposits: str) -> Api:
    """Sign up, make a key, and have the faucet credit `deposits`."""
    credentials = {"email": f"{secrets.token_hex(8)}@example.com", "password": secrets.token_urlsafe(16)}
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as http:
        _answer(http.post("/api/v1/signup", json=credentials))
        session = {
            "Authorization": f"Bearer {_answer(http.post('/api/v1/signin', json=credentials))['token']}"
        }
        keys = _answer(
            http.post(
                "/api/v1/api-keys",
                json={"label": "test", "password": credentials["password"]},
                headers=session,
            )
        )
        for asset, amount in deposits.items():
            _answer(http.post("/api/v1/faucet", json={"asset": asset, "amount": amount}, headers=session))
    return Api(url, keys["apiKey"], keys["secret"])


@contextmanager
def refused(code: int, message: str) -> Iterator[None]:
    """Expect exactly this refusal."""
    with pytest.raises(RefusedError) as refusal:
        yield
    assert (refusal.value.code, refusal.value.message) == (code, message)


def signature_of(secret: str, query: str) -> str:
    """Return the HMAC signature of a query."""
    return hmac.new(secret.encode(), query.encode(), hashlib.sha256).hexdigest()


def now_ms() -> int:
    """Return the time that signed requests carry."""
    return time.time_ns() // 1_000_000


def _answer(response: httpx.Response) -> Any:
    if not response.is_success:
        raise RefusedError(response)
    return response.json()
