"""Requests that block, for commands and for what prepares a measurement.

`client.rest` is for everything else.
"""

import json
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from client.signing import signed_query

TIMEOUT_S = 30


class RequestError(RuntimeError):
    """The exchange refused a request; the message has its own words."""


class UnreachableError(RequestError):
    """The exchange is not there, or did not answer in time."""


class Account(NamedTuple):
    """An account that was just made."""

    account_id: int
    email: str
    password: str
    token: str
    """Of its session."""
    api_key: str
    secret: str


def request(
    url: str, body: Mapping[str, str] | None = None, token: str = "", context: ssl.SSLContext | None = None
) -> Any:
    """GET, or POST with a body, and return the decoded answer.

    `context` has the trusted certificates for an https URL; None: the system's.

    Raises:
        RequestError: the exchange refused, or is unreachable.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    return _answer(urllib.request.Request(url, data, headers), context)


def signed(url: str, api_key: str, secret: str | bytes, path: str, **parameters: str | int) -> Any:
    """GET in the name of an account, and return the decoded answer.

    Raises:
        RequestError: the exchange refused, or is not there.
    """
    query = signed_query(secret, parameters, time.time_ns() // 1_000_000)
    request = urllib.request.Request(f"{url}{path}?{query}", headers={"X-MBX-APIKEY": api_key})
    return _answer(request, None)


def new_account(
    url: str,
    label: str,
    funds: Mapping[str, str],
    *,
    context: ssl.SSLContext | None = None,
    verify: Callable[[str], object] = lambda _email: None,
) -> Account:
    """Sign an account up, have its address verified, fund it from the faucet, and make it an API key.

    Raises:
        RequestError: a step was refused.
    """

    def ask(path: str, body: Mapping[str, str] | None = None, token: str = "") -> Any:
        return request(f"{url}/api/v1/{path}", body, token, context)

    person = {"email": f"{label}-{secrets.token_hex(6)}@example.com", "password": secrets.token_urlsafe(16)}
    ask("signup", person)
    verify(person["email"])
    token = ask("signin", person)["token"]
    account_id = ask("me", token=token)["accountId"]
    for asset, amount in funds.items():
        ask("faucet", {"asset": asset, "amount": amount}, token)
    key = ask("api-keys", {"label": label, "password": person["password"]}, token)
    return Account(account_id, person["email"], person["password"], token, key["apiKey"], key["secret"])


def _answer(request: urllib.request.Request, context: ssl.SSLContext | None) -> Any:
    url = request.full_url.partition("?")[0]  # the query of a signed request is for the exchange alone
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise RequestError(f"{url}: {error.code} {error.read().decode(errors='replace')[:200]}") from error
    except OSError as error:
        raise UnreachableError(f"{url} does not answer ({error})") from error
