"""The exchange's own API, as far as commands need it: accounts, keys, the faucet, public data."""

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 30


class ApiError(RuntimeError):
    """The exchange refused, or is not there; the message says which."""


def request(url: str, body: Mapping[str, str] | None = None, token: str = "") -> Any:
    """GET, or with a body POST, and return the decoded answer.

    Raises:
        ApiError: with the exchange's own words.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(  # noqa: S310 - the URL comes from our settings
            urllib.request.Request(url, data, headers),  # noqa: S310
            timeout=TIMEOUT_S,
        ) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise ApiError(f"{url}: {error.code} {error.read().decode(errors='replace')[:200]}") from error
    except OSError as error:
        raise ApiError(f"{url} does not answer ({error}); is the exchange running? `exchange up` starts it") from error


def funded_account(rest_url: str, funds: Mapping[str, str], label: str) -> tuple[str, str]:
    """Sign a new account up, fund it from the faucet, and return the key and secret of a new API key.

    Raises:
        ApiError: a step was refused.
    """
    person = {"email": f"{label}-{secrets.token_hex(6)}@example.com", "password": secrets.token_urlsafe(16)}
    request(f"{rest_url}/api/v1/signup", person)
    token = request(f"{rest_url}/api/v1/signin", person)["token"]
    for asset, amount in funds.items():
        request(f"{rest_url}/api/v1/faucet", {"asset": asset, "amount": amount}, token)
    key = request(f"{rest_url}/api/v1/api-keys", {"label": label, "password": person["password"]}, token)
    return key["apiKey"], key["secret"]
