"""The exchange's own API, as far as commands need it: accounts, keys, the faucet, public data."""

import json
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from cli.local.state import settings_of_running
from runtime.tls import LocalTrust

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
            context=_context_for(url),
        ) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise ApiError(f"{url}: {error.code} {error.read().decode(errors='replace')[:200]}") from error
    except OSError as error:
        raise ApiError(f"{url} does not answer ({error}); is the exchange running? `exchange up` starts it") from error


def _context_for(url: str) -> ssl.SSLContext | None:
    """Return whom to trust: the exchange that runs here, by its certificate; anybody else as usual (None)."""
    if not url.startswith("https:"):
        return None
    settings = settings_of_running()
    trust = LocalTrust.of(settings) if url.startswith(f"{settings.rest_url()}/") else None
    return trust.context if trust is not None else None


def funded_account(
    rest_url: str, funds: Mapping[str, str], label: str, verify: Callable[[str], object] = lambda _email: None
) -> tuple[str, str]:
    """Sign a new account up, have its address verified, fund it from the faucet, and return the key and secret of a new API key.

    Raises:
        ApiError: a step was refused.
    """
    person = {"email": f"{label}-{secrets.token_hex(6)}@example.com", "password": secrets.token_urlsafe(16)}
    request(f"{rest_url}/api/v1/signup", person)
    verify(person["email"])
    token = request(f"{rest_url}/api/v1/signin", person)["token"]
    for asset, amount in funds.items():
        request(f"{rest_url}/api/v1/faucet", {"asset": asset, "amount": amount}, token)
    key = request(f"{rest_url}/api/v1/api-keys", {"label": label, "password": person["password"]}, token)
    return key["apiKey"], key["secret"]
