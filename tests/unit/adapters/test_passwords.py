"""Who has an account does not wait for those who sign up, and these leave the processor to others."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import argon2
import pytest

from adapters.passwords import ArgonPasswords
from functions.api.errors import ApiError

MANY = 50
EMAIL = "ada@example.com"
PASSWORD = "an entirely different staple"


async def test_a_crowd_that_signs_up_does_not_hold_up_a_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.passwords._SIGN_UPS_REST", 0.0)
    passwords = ArgonPasswords()
    known = await signed_up(passwords, PASSWORD)
    crowd = [asyncio.create_task(signed_up(passwords, f"{PASSWORD} {number}")) for number in range(MANY)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as refused:
        await signed_up(passwords, PASSWORD)
    assert refused.value.status == 503
    assert await passwords.matches(known, PASSWORD)
    # Nor does who chooses another password.
    assert await passwords.hashed(PASSWORD, EMAIL, is_known=True)
    assert sum(each.done() for each in crowd) < MANY / 2
    assert len(set(await asyncio.gather(*crowd))) == MANY


async def test_sign_ups_take_nothing_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a password by the rules takes milliseconds: in the process that hashes, not where others have
    their orders."""
    looked: list[str] = []
    monkeypatch.setattr("adapters.passwords.check_password", lambda password, _email: looked.append(password))
    passwords = ArgonPasswords()
    await signed_up(passwords, PASSWORD)
    assert looked == []
    await passwords.hashed(PASSWORD, EMAIL, is_known=True)
    assert looked == [PASSWORD]


async def test_sign_ups_have_a_quarter_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[float, float]] = []

    def take_long(_process: object, _password: str, _email: str) -> str:
        began = time.monotonic()
        time.sleep(0.03)
        turns.append((began, time.monotonic()))
        return ""

    passwords = ArgonPasswords()
    monkeypatch.setattr("adapters.hashing_process.HashingProcess.hash", take_long)
    await asyncio.gather(*(signed_up(passwords, PASSWORD) for _ in range(3)))
    for (began, ended), (following, _) in itertools.pairwise(turns):
        assert following - ended >= 3 * (ended - began)


async def test_sign_ups_do_not_rest_for_the_time_that_others_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full machine the process that hashes waits for a processor; that is no reason to wait on."""
    turns: list[tuple[float, float]] = []

    def wait_for_a_processor(_process: object, _password: str, _email: str) -> str:
        began = time.monotonic()
        time.sleep(1.0)
        turns.append((began, time.monotonic()))
        return ""

    passwords = ArgonPasswords()
    monkeypatch.setattr("adapters.hashing_process.HashingProcess.hash", wait_for_a_processor)
    await asyncio.gather(*(signed_up(passwords, PASSWORD) for _ in range(2)))
    (_, ended), (following, _) = turns
    assert 0.3 <= following - ended < 3.0


async def test_a_machine_without_memory_makes_no_password_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a 503: the attempt must count as none."""
    passwords = ArgonPasswords()
    known = await signed_up(passwords, PASSWORD)

    def raising(kind: type[Exception]) -> Callable[..., None]:
        def no_memory(*_: object) -> None:
            raise kind("Memory allocation error")

        return no_memory

    monkeypatch.setattr("argon2.PasswordHasher.verify", raising(argon2.exceptions.VerificationError))
    monkeypatch.setattr("argon2.PasswordHasher.hash", raising(argon2.exceptions.HashingError))
    monkeypatch.setattr("adapters.hashing_process.HashingProcess.hash", raising(OSError))
    attempts: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: passwords.matches(known, PASSWORD),
        lambda: passwords.hashed(PASSWORD, EMAIL, is_known=True),
        lambda: signed_up(passwords, PASSWORD),
    )
    for attempt in attempts:
        with pytest.raises(ApiError) as refused:
            await attempt()
        assert refused.value.status == 503


async def test_a_password_that_the_rules_refuse_is_not_hashed() -> None:
    passwords = ArgonPasswords()
    for is_known in (True, False):
        with pytest.raises(ApiError) as refused:
            await passwords.hashed("password", EMAIL, is_known=is_known)
        assert refused.value.code == -1130


async def signed_up(passwords: ArgonPasswords, password: str) -> str:
    return await passwords.hashed(password, EMAIL, is_known=False)


async def test_nobody_has_an_empty_hash() -> None:
    passwords = ArgonPasswords()
    assert not await passwords.matches("", "nobody has this password")
    assert not await passwords.matches(await signed_up(passwords, PASSWORD), "another")
