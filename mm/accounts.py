"""The market maker's own accounts: made once, kept in a file that only its owner can read, made anew when they are refused."""

import secrets
from pathlib import Path
from typing import Final

import msgspec
import structlog

from mm.client import ApiError, Client, Keys

UNAUTHORIZED: Final = 401
KEY_REFUSED: Final = frozenset({-1022, -2014, -2015})
"""Codes that say that a key or its secret is not, or no longer, good."""

_log = structlog.get_logger()


class Account(msgspec.Struct, frozen=True):
    """How one account signs in, and the key it trades with."""

    email: str
    password: str
    keys: Keys


class Accounts(msgspec.Struct, frozen=True):
    """Two accounts, so that what one quotes the other may take: nobody trades with themselves."""

    maker: Account
    taker: Account


async def open_accounts(client: Client, path: Path) -> Accounts:
    """Return accounts whose keys work: those kept at `path`, or where they are refused, new ones, kept there."""
    known = _load(path)
    accounts = Accounts(
        maker=await _usable(client, "maker", known.maker if known else None),
        taker=await _usable(client, "taker", known.taker if known else None),
    )
    if accounts != known:
        _save(path, accounts)
    return accounts


async def _usable(client: Client, role: str, known: Account | None) -> Account:
    if known is not None:
        try:
            await client.signed(known.keys, "GET", "/api/v3/account")
        except ApiError as error:
            if error.code not in KEY_REFUSED:
                raise
            _log.warning("api key refused", role=role, code=error.code)
        else:
            return known
        try:
            return await _with_new_key(client, role, known.email, known.password)
        except ApiError as error:
            _log.warning("sign-in refused", role=role, status=error.status, message=error.message)
    email, password = f"mm-{role}-{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(24)
    await client.post("/api/v1/signup", {"email": email, "password": password})
    _log.info("account made", role=role, email=email)
    return await _with_new_key(client, role, email, password)


async def _with_new_key(client: Client, role: str, email: str, password: str) -> Account:
    token = (await client.post("/api/v1/signin", {"email": email, "password": password}))["token"]
    keys = await client.post("/api/v1/api-keys", {"label": f"mm {role}", "password": password}, token)
    return Account(email, password, msgspec.convert(keys, Keys))


async def deposit(client: Client, account: Account, asset: str, amount: str) -> None:
    """Have the faucet credit `amount` (a decimal string) of `asset`."""
    token = (await client.post("/api/v1/signin", {"email": account.email, "password": account.password}))["token"]
    await client.post("/api/v1/faucet", {"asset": asset, "amount": amount}, token)


def _load(path: Path) -> Accounts | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Accounts)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        _log.warning("accounts file unreadable", path=str(path), error=str(error))
        return None


def _save(path: Path, accounts: Accounts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(accounts)))
    beside.replace(path)
