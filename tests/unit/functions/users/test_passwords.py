"""A new password that cannot be had now uses nothing up: neither the mail's token nor a code is good a second
time."""

from typing import Any

import msgspec
import pytest

from functions.api.errors import ApiError, overloaded
from functions.api.parameters import Parameters
from functions.api.ports import Call
from functions.repositories.mails import Purpose
from functions.users.activity import Origin
from functions.users.mails import send_token
from functions.users.passwords import change_password, reset_password
from protocol.units import AccountId, TimeMs
from tests.unit.functions.repositories import MemoryAccounts, ports_of

ANN = AccountId(1001)


class Busy:
    """Passwords when too many wait; whatever is used up is written down."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def hashed(self, _password: str, _email: str, *, is_known: bool) -> str:
        assert is_known
        raise overloaded()

    async def matches(self, _hash: str, _password: str) -> bool:
        self.asked.append("password")
        return True

    async def begin(self, _attempt: object) -> None:
        self.asked.append("attempt")


@pytest.mark.parametrize("function", [change_password, reset_password])
async def test_nothing_is_used_up_while_too_many_wait(function: Any) -> None:
    busy, accounts = Busy(), MemoryAccounts()
    ports = ports_of(passwords=busy, attempts=busy, accounts=accounts)
    owner = await ports.users.add("ann@example.com", "hash", Origin("192.0.2.1", "test"))
    assert owner == ANN
    await send_token(ports, ANN, Purpose.RESET)
    (_, mail), tokens = accounts.mails[0], dict(accounts.tokens)
    token = mail.body.rpartition("enter: ")[2].split()[0]
    body = msgspec.json.encode(
        {"token": token, "password": "old", "newPassword": "an entirely different staple"}
    )
    with pytest.raises(ApiError) as refused:
        await function(ports, Call(Parameters({}), TimeMs(1), ANN, body=body))
    assert (refused.value.code, busy.asked, accounts.tokens) == (-1008, [], tokens)
