"""A new password that cannot be had now uses nothing up: neither the mail's token nor a code is good a second time."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from functions.api.errors import ApiError, overloaded
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.users.passwords import change_password, reset_password
from protocol.units import AccountId, TimeMs

ANN = AccountId(7)


class Busy:
    """Passwords when too many wait; whatever else is asked is written down."""

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

    async def fetch(self, statement: str, _parameters: object) -> list[tuple[Any, ...]]:
        if "UPDATE" in statement:
            self.asked.append(statement)
        return [(ANN, "hash")]


@pytest.mark.parametrize("function", [change_password, reset_password])
async def test_nothing_is_used_up_while_too_many_wait(function: Any) -> None:
    busy = Busy()
    ports = cast("Ports", SimpleNamespace(passwords=busy, attempts=busy, database=busy))
    body = msgspec.json.encode({"token": "t", "password": "old", "newPassword": "an entirely different staple"})
    with pytest.raises(ApiError) as refused:
        await function(ports, Call(Parameters({}), TimeMs(1), ANN, body=body))
    assert (refused.value.code, busy.asked) == (-1008, [])
