"""The exchange's own API for commands: accounts, keys, the faucet, public data."""

import ssl
from collections.abc import Callable, Mapping
from typing import Any

from cli.local.state_file import settings_of_running
from client import blocking
from client.blocking import Account, RequestError, UnreachableError
from runtime.tls import LocalTrust


def request(url: str, body: Mapping[str, str] | None = None, token: str = "") -> Any:
    """GET, or with a body POST, and return the decoded answer.

    Raises:
        RequestError: with the exchange's own words, or with what to do when it is not there.
    """
    try:
        return blocking.request(url, body, token, _context_for(url))
    except UnreachableError as error:
        raise RequestError(f"{error}; is the exchange running? `exchange up` starts it") from error


def _context_for(url: str) -> ssl.SSLContext | None:
    """Return whom to trust: the exchange that runs here, by its certificate; anybody else as usual (None)."""
    if not url.startswith("https:"):
        return None
    settings = settings_of_running()
    trust = LocalTrust.of(settings) if url.startswith(f"{settings.rest_url()}/") else None
    return trust.context if trust is not None else None


def funded_account(
    rest_url: str, funds: Mapping[str, str], label: str, verify: Callable[[str], object] = lambda _email: None
) -> Account:
    """Sign a new account up, have its address verified, fund it from the faucet, and make it an API key.

    Raises:
        RequestError: a step was refused.
    """
    return blocking.new_account(rest_url, label, funds, context=_context_for(f"{rest_url}/"), verify=verify)
