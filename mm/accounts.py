"""The market maker's accounts: created once, stored in a file readable only by its owner.

They are created again if the exchange refuses them.
"""

import secrets
from pathlib import Path
from typing import Final

import msgspec
import structlog

from client.rest import ApiError, Client, Keys

UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
KEY_REFUSED: Final = frozenset({-1022, -2014, -2015})
"""Codes that say that a key or its secret is not, or no longer, good."""

_NO_KEYS: Final = Keys("", "")
_log = structlog.get_logger()


class UnverifiedError(Exception):
    """The exchange requires a verified address, and a program cannot read the mail.

    The message says what to do.
    """


class Account(msgspec.Struct, frozen=True):
    """The credentials of one account: for signing in, and for the API."""

    email: str
    password: str
    keys: Keys


class Accounts(msgspec.Struct, frozen=True):
    """Two accounts, so that one can take the other's quotes: an account never trades with itself."""

    maker: Account
    taker: Account


def accounts_file(data_dir: Path) -> Path:
    """Return the path of the market maker's credentials in the data folder."""
    return data_dir / "mm.json"


async def open_accounts(client: Client, path: Path) -> Accounts:
    """Return accounts with working keys: those stored at `path`, or new ones if they are refused.

    Raises:
        UnverifiedError: an account is not verified; it is stored until somebody verifies it.
        ApiError: the exchange refused.
    """
    stored = kept_accounts(path)
    # Stored before they are used, so that accounts that cannot be used yet are available later.
    accounts = Accounts(
        maker=await _existing(client, "maker", stored.maker if stored else None),
        taker=await _existing(client, "taker", stored.taker if stored else None),
    )
    keep_accounts(path, accounts)
    accounts = Accounts(
        maker=await _with_key(client, "maker", accounts.maker),
        taker=await _with_key(client, "taker", accounts.taker),
    )
    keep_accounts(path, accounts)
    return accounts


async def _existing(client: Client, role: str, stored: Account | None) -> Account:
    """Return an existing account; without keys if its keys are refused."""
    if stored is not None:
        try:
            if stored.keys != _NO_KEYS:
                await client.signed(stored.keys, "GET", "/api/v3/account")
                return stored
        except ApiError as error:
            if error.code not in KEY_REFUSED:
                raise
            _log.warning("api key refused", role=role, code=error.code)
        try:
            await _signed_in(client, stored)
        except ApiError as error:
            if error.status != UNAUTHORIZED:
                raise
            _log.warning("sign-in refused", role=role, message=error.message)
        else:
            return msgspec.structs.replace(stored, keys=_NO_KEYS)
    new = Account(f"mm-{role}-{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(24), _NO_KEYS)
    await client.post("/api/v1/signup", {"email": new.email, "password": new.password})
    _log.info("account made", role=role, email=new.email)
    return new


async def _with_key(client: Client, role: str, account: Account) -> Account:
    if account.keys != _NO_KEYS:
        return account
    request = {"label": f"mm {role}", "password": account.password}
    try:
        keys = await client.post("/api/v1/api-keys", request, await _signed_in(client, account))
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        raise UnverifiedError(
            f"{error.message} `exchange accounts verify {account.email}` does without."
        ) from error
    return msgspec.structs.replace(account, keys=msgspec.convert(keys, Keys))


async def _signed_in(client: Client, account: Account) -> str:
    return str(
        (await client.post("/api/v1/signin", {"email": account.email, "password": account.password}))["token"]
    )


async def deposit(client: Client, account: Account, asset: str, amount: str) -> None:
    """Have the faucet credit `amount` (a decimal string) of `asset`."""
    await client.post("/api/v1/faucet", {"asset": asset, "amount": amount}, await _signed_in(client, account))


def kept_accounts(path: Path) -> Accounts | None:
    """Return the accounts that are kept at `path`; None: there are none, or they cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Accounts)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        _log.warning("accounts file unreadable", path=str(path), error=str(error))
        return None


def keep_accounts(path: Path, accounts: Accounts) -> None:
    """Write the credentials to a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(accounts)))
    beside.replace(path)
