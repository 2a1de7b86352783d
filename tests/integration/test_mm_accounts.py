"""The market maker's accounts against a small exchange that knows some and refuses others."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from client.rest import ApiError, Client
from mm.accounts import UnverifiedError, open_accounts


class Users:
    """Sign-up, sign-in and API keys, in memory."""

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}
        self.keys: set[str] = set()
        self.unverified: set[str] = set()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/api/v1/signup", self._sign_up)
        application.router.add_post("/api/v1/signin", self._sign_in)
        application.router.add_post("/api/v1/api-keys", self._make_key)
        application.router.add_get("/api/v3/account", self._account)
        return application

    async def _sign_up(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.passwords[body["email"]] = body["password"]
        return web.json_response({})

    async def _sign_in(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.passwords.get(body["email"]) != body["password"]:
            return web.json_response({"code": -1002, "msg": "Wrong email or password."}, status=401)
        return web.json_response({"token": body["email"]})

    async def _make_key(self, request: web.Request) -> web.Response:
        owner = request.headers["Authorization"].removeprefix("Bearer ")
        assert owner in self.passwords
        if owner in self.unverified:
            return web.json_response(
                {"code": -1002, "msg": "Verify the address of this account first."}, status=403
            )
        key = f"key-{len(self.keys)}"
        self.keys.add(key)
        return web.json_response(
            {"apiKey": key, "secret": "secret", "label": (await request.json())["label"]}
        )

    async def _account(self, request: web.Request) -> web.Response:
        if request.headers["X-MBX-APIKEY"] not in self.keys:
            return web.json_response({"code": -2015, "msg": "Invalid API-key."}, status=401)
        return web.json_response({"balances": []})


@pytest.fixture
def users() -> Users:
    return Users()


@pytest.fixture
async def client(users: Users) -> AsyncIterator[Client]:
    async with TestServer(users.application()) as server, Client(str(server.make_url("/"))) as client:
        yield client


async def test_accounts_are_made_once_and_kept_for_their_owner_only(
    client: Client, users: Users, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "mm.json"
    accounts = await open_accounts(client, path)
    assert accounts.maker.email != accounts.taker.email
    assert {accounts.maker.keys.api_key, accounts.taker.keys.api_key} == users.keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await open_accounts(client, path) == accounts
    assert len(users.passwords) == len(users.keys) == 2


async def test_a_refused_key_is_replaced_by_a_new_one_of_the_same_account(
    client: Client, users: Users, tmp_path: Path
) -> None:
    path = tmp_path / "mm.json"
    before = await open_accounts(client, path)
    users.keys.clear()
    users.keys.add("somebody else's")
    after = await open_accounts(client, path)
    assert (after.maker.email, after.taker.email) == (before.maker.email, before.taker.email)
    assert {after.maker.keys.api_key, after.taker.keys.api_key} <= users.keys


async def test_accounts_that_are_gone_are_replaced(client: Client, users: Users, tmp_path: Path) -> None:
    path = tmp_path / "mm.json"
    before = await open_accounts(client, path)
    users.keys.clear()
    users.passwords.clear()
    after = await open_accounts(client, path)
    assert after.maker.email != before.maker.email
    assert set(users.passwords) == {after.maker.email, after.taker.email}
    assert await open_accounts(client, path) == after


async def test_accounts_that_are_not_verified_are_kept_until_they_are(
    client: Client, users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mm.json"
    monkeypatch.setattr(users, "unverified", users.passwords)
    for _ in range(2):
        with pytest.raises(UnverifiedError, match=r"exchange accounts verify mm-maker-\w+@example.com"):
            await open_accounts(client, path)
    monkeypatch.setattr(users, "unverified", set())
    accounts = await open_accounts(client, path)
    assert {accounts.maker.email, accounts.taker.email} == set(users.passwords)
    assert {accounts.maker.keys.api_key, accounts.taker.keys.api_key} == users.keys


async def test_a_damaged_file_is_no_accounts(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "mm.json"
    path.write_text("{")
    accounts = await open_accounts(client, path)
    assert await open_accounts(client, path) == accounts


async def test_a_refusal_that_is_not_about_the_key_is_not_hidden(client: Client, tmp_path: Path) -> None:
    async with TestServer(web.Application()) as server, Client(str(server.make_url("/"))) as elsewhere:
        with pytest.raises(ApiError):
            await open_accounts(elsewhere, tmp_path / "mm.json")
