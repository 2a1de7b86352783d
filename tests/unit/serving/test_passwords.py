"""Who signs in does not wait for those who sign up."""

import asyncio
import os
import sys
import threading

import pytest

from functions.errors import ApiError
from serving.passwords import ArgonPasswords

MANY = 50
PASSWORD = "an entirely different staple"


async def test_a_crowd_that_signs_up_does_not_hold_up_a_sign_in() -> None:
    passwords = ArgonPasswords()
    known = await passwords.hashed(PASSWORD)
    crowd = [asyncio.create_task(passwords.hashed(f"{PASSWORD} {number}")) for number in range(MANY)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await passwords.hashed(PASSWORD)
    assert refused.value.status == 503
    assert await passwords.matches(known, PASSWORD)
    assert sum(each.done() for each in crowd) < MANY / 2
    assert len(set(await asyncio.gather(*crowd))) == MANY


async def test_nobody_has_an_empty_hash() -> None:
    passwords = ArgonPasswords()
    assert not await passwords.matches("", "nobody has this password")
    assert not await passwords.matches(await passwords.hashed(PASSWORD), "another")


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: only Linux has priorities of threads")
async def test_hashing_gives_way_to_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = ArgonPasswords()
    seen: list[int] = []

    def priority(_hasher: object, _password: str) -> str:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return ""

    monkeypatch.setattr("argon2.PasswordHasher.hash", priority)
    await passwords.hashed(PASSWORD)
    assert seen == [19]
