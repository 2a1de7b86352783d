"""Signing up and in, sessions, keys and passwords, with everything that is kept in memory."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pyotp
import pytest

from functions.api.errors import ApiError
from functions.api.parameters import Parameters
from functions.api.ports import MICROSECONDS, Call, Ports
from functions.users import (
    create_api_key,
    end_sessions,
    get_activity,
    list_api_keys,
    list_sessions,
    passwords,
    revoke_api_key,
    totp,
    verification,
)
from functions.users.activity import Activity
from functions.users.attempts import Attempt
from functions.users.revocations import Revocation, of_key, of_session
from functions.users.sessions import open_session
from functions.users.sign_in import Session, sign_in
from functions.users.sign_up import SignedUp, sign_up
from protocol import streams
from protocol.units import AccountId, TimeMs
from tests.unit.functions.repositories import MemoryAccounts, ports_of

ANN: Final = "ann@example.com"
PASSWORD: Final = "a perfectly ordinary staple"
OTHER_PASSWORD: Final = "an entirely different staple"
NOW: Final = TimeMs(1_795_392_000_000)
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"


class KeyValues:
    """A Redis."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def put(self, key: str, value: bytes, ttl_s: int | None = None) -> None:
        self.values[key] = value

    async def remove(self, key: str) -> None:
        self.values.pop(key, None)


class PlainPasswords:
    """Passwords whose hash is the password; `then` happens while one is looked at."""

    def __init__(self) -> None:
        self.then: Callable[[], None] = lambda: None

    async def hashed(self, password: str, _email: str, *, is_known: bool) -> str:
        return password

    async def matches(self, password_hash: str, password: str) -> bool:
        self.then()
        return password_hash == password


class FailedAttempts(list[Attempt]):
    """Attempts that have not succeeded."""

    async def begin(self, attempt: Attempt) -> None:
        self.append(attempt)

    async def succeeded(self, attempt: Attempt) -> None:
        self.remove(attempt)


class Revoked(list[Revocation]):
    """The list of revocations."""

    async def add(self, revoked: Revocation) -> None:
        self.append(revoked)


class OpenBox:
    """Keeps secrets as they are."""

    def seal(self, secret: bytes, _bound_to: str) -> bytes:
        return secret

    def open(self, sealed: bytes, _bound_to: str) -> bytes:
        return sealed


class World:
    """An exchange's accounts, all in memory."""

    def __init__(self) -> None:
        self.accounts = MemoryAccounts()
        self.redis, self.passwords, self.attempts, self.revoked = (
            KeyValues(),
            PlainPasswords(),
            FailedAttempts(),
            Revoked(),
        )
        self.ports: Ports = ports_of(
            accounts=self.accounts,
            key_values=self.redis,
            revocations=self.revoked,
            passwords=self.passwords,
            attempts=self.attempts,
            secret_box=OpenBox(),
        )

    def call(self, body: object = None, account_id: int = 0, address: str = HOME, **sent: str) -> Call:
        encoded = b"" if body is None else msgspec.json.encode(body)
        return Call(Parameters(sent), NOW, AccountId(account_id), body=encoded, address=address, agent="test")

    async def ann(self) -> AccountId:
        """Sign Ann up."""
        await sign_up(self.ports, self.call({"email": ANN, "password": PASSWORD}))
        account_id = await self.ports.users.account_of(ANN)
        assert account_id is not None
        self.accounts.mails.clear()
        return account_id

    async def signed_in(self, password: str = PASSWORD, address: str = HOME) -> Session:
        answer = await sign_in(self.ports, self.call({"email": ANN, "password": password}, address=address))
        assert isinstance(answer, Session)
        return answer

    def kinds(self) -> list[Activity]:
        return [activity for _, activity, _ in self.accounts.noted]

    def subjects(self) -> list[str]:
        return [mail.subject for _, mail in self.accounts.mails]


async def code_of(answer: Any) -> tuple[int, int]:
    with pytest.raises(ApiError) as refused:
        await answer
    return refused.value.code, refused.value.status


async def test_an_address_that_has_an_account_gets_the_same_answer_and_its_owner_a_mail() -> None:
    world = World()
    for subject in ("Verify your address", "You have an account already"):
        answer = await sign_up(world.ports, world.call({"email": ANN.upper(), "password": PASSWORD}))
        assert answer == SignedUp(ANN)
        assert world.subjects()[-1] == subject
    assert world.kinds() == [Activity.SIGNED_UP]
    assert await world.ports.users.account_of(ANN) == AccountId(1001)


async def test_a_refused_sign_in_is_noted_for_the_owner_and_answered_alike() -> None:
    world = World()
    await world.ann()
    refusals = [
        await code_of(sign_in(world.ports, world.call({"email": email, "password": OTHER_PASSWORD})))
        for email in (ANN, "bob@example.com")
    ]
    assert refusals == [(-1002, 401)] * 2
    assert world.kinds() == [Activity.SIGNED_UP, Activity.SIGN_IN_REFUSED]
    assert [each.email for each in world.attempts] == [ANN, "bob@example.com"]
    assert world.accounts.sessions == {}


async def test_a_sign_in_from_elsewhere_is_told_to_the_owner() -> None:
    world = World()
    account_id = await world.ann()
    mails = []
    for address in (HOME, HOME, ELSEWHERE, ELSEWHERE):
        await world.signed_in(address=address)
        mails.append(len(world.accounts.mails))
    assert mails == [0, 0, 1, 1], "not of the first sign-in ever, and once of each new place"
    assert ELSEWHERE in world.accounts.mails[0][1].body
    shown = await list_sessions.list_sessions(world.ports, world.call(account_id=account_id))
    assert [each.address for each in shown] == [ELSEWHERE, ELSEWHERE, HOME, HOME]


async def test_a_password_that_was_changed_meanwhile_opens_no_session() -> None:
    """The record in Redis, which is written first, is removed again."""
    world = World()
    account_id = await world.ann()
    assert await open_session(world.ports, world.call(), account_id, "the hash of before") is None
    assert (world.redis.values, world.accounts.sessions) == ({}, {})
    assert await open_session(world.ports, world.call(), account_id, PASSWORD) is not None
    assert len(world.redis.values) == len(world.accounts.sessions) == 1


async def test_sessions_end_in_the_list_of_revocations_and_in_redis() -> None:
    world = World()
    account_id = await world.ann()
    own, *others = [(await world.signed_in()).session_id for _ in range(3)]
    call = msgspec.structs.replace(world.call(account_id=account_id), session_id=own)
    assert await end_sessions.end(world.ports, call) == {"ended": 2}
    assert world.revoked == [Revocation(of_session(each), account_id) for each in others]
    assert len(world.redis.values) == 1
    assert await end_sessions.end(world.ports, call) == {"ended": 0}, "the others have ended"
    by_id = msgspec.structs.replace(call, parameters=Parameters({"sessionId": others[0]}))
    assert await end_sessions.end(world.ports, by_id) == {"ended": 0}, "again, and harmless"
    unknown = msgspec.structs.replace(call, parameters=Parameters({"sessionId": "unknown"}))
    assert await code_of(end_sessions.end(world.ports, unknown)) == (-1130, 400)
    foreign = msgspec.structs.replace(by_id, account_id=AccountId(account_id + 1))
    assert await code_of(end_sessions.end(world.ports, foreign)) == (-1130, 400)


async def test_keys_are_made_listed_and_revoked() -> None:
    world = World()
    account_id = await world.ann()
    call = world.call({"password": PASSWORD, "label": "bot", "networks": ["10.0.0.1"]}, account_id)
    made = await create_api_key.create_api_key(world.ports, call)
    assert (made.networks, made.expires_time) == (("10.0.0.1/32",), None)
    assert streams.api_key(made.api_key) in world.redis.values
    (listed,) = await list_api_keys.list_api_keys(
        world.ports, msgspec.structs.replace(call, time_scale=MICROSECONDS)
    )
    assert (listed.api_key, listed.label, listed.created_time, listed.expires_time) == (
        made.api_key,
        "bot",
        5_000,
        None,
    )
    revoking = world.call(account_id=account_id, apiKey=made.api_key)
    for _ in range(2):  # again, after an answer that was an outage
        assert await revoke_api_key.revoke_api_key(world.ports, revoking) == {}
    assert world.revoked == [Revocation(of_key(made.api_key), account_id)] * 2
    assert streams.api_key(made.api_key) not in world.redis.values
    assert await list_api_keys.list_api_keys(world.ports, call) == []
    foreign = msgspec.structs.replace(revoking, account_id=AccountId(account_id + 1))
    assert await code_of(revoke_api_key.revoke_api_key(world.ports, foreign)) == (-1130, 400)


async def test_a_key_needs_the_password_and_room() -> None:
    world = World()
    account_id = await world.ann()
    wrong = world.call({"password": OTHER_PASSWORD}, account_id)
    assert await code_of(create_api_key.create_api_key(world.ports, wrong)) == (-1002, 401)
    call = world.call({"password": PASSWORD}, account_id)
    for _ in range(30):
        await create_api_key.create_api_key(world.ports, call)
    assert await code_of(create_api_key.create_api_key(world.ports, call)) == (-1130, 409)


async def test_a_key_that_was_asked_for_before_the_password_changed_is_not_made() -> None:
    world = World()
    account_id = await world.ann()
    user = world.accounts.user(account_id)
    assert user is not None
    world.passwords.then = lambda: world.accounts.put(user._replace(password_hash=OTHER_PASSWORD))
    call = world.call({"password": PASSWORD}, account_id)
    assert await code_of(create_api_key.create_api_key(world.ports, call)) == (-1002, 401)
    assert (world.accounts.keys, world.redis.values) == ({}, {})


async def test_a_changed_password_ends_the_other_sessions_and_the_tokens_of_mails() -> None:
    world = World()
    account_id = await world.ann()
    own, other = [(await world.signed_in()).session_id for _ in range(2)]
    await passwords.forget_password(world.ports, world.call({"email": ANN}))
    assert world.subjects() == ["Choose a new password"]
    call = world.call({"password": PASSWORD, "newPassword": OTHER_PASSWORD}, account_id)
    await passwords.change_password(world.ports, msgspec.structs.replace(call, session_id=own))
    assert await world.ports.sessions.open_ids(account_id) == [own]
    assert world.accounts.ended == {other}
    assert [purpose for _, purpose in world.accounts.tokens.values()] == ["verification"], (
        "that of signing up stays"
    )
    assert world.kinds()[-2:] == [Activity.CHANGED, Activity.SIGNED_OUT]
    assert world.subjects()[-1] == "Your password was changed"


async def test_a_forgotten_password_of_nobody_is_answered_alike() -> None:
    world = World()
    assert await passwords.forget_password(world.ports, world.call({"email": ANN})) == {}
    assert (world.accounts.mails, world.accounts.tokens, len(world.attempts)) == ([], {}, 1)


@pytest.mark.parametrize("is_verified", [True, False])
async def test_a_reset_takes_away_what_somebody_else_may_have_added(is_verified: bool) -> None:
    """Where nobody had shown that the address is theirs; the control: what its owner added stays."""
    world = World()
    account_id = await world.ann()
    if is_verified:
        await world.ports.users.verify_silently(account_id)
    await create_api_key.create_api_key(world.ports, world.call({"password": PASSWORD}, account_id))
    await world.signed_in()
    if not is_verified:
        world.accounts.factors[account_id] = (b"somebody else's", True)
    await passwords.forget_password(world.ports, world.call({"email": ANN}))
    token = world.accounts.mails[-1][1].body.rpartition("enter: ")[2].split()[0]
    call = world.call({"token": token, "newPassword": OTHER_PASSWORD})
    await passwords.reset_password(world.ports, call)
    assert await world.ports.users.is_verified(account_id)
    assert await world.ports.sessions.open_ids(account_id) == []
    assert len(await world.ports.api_keys.of_account(account_id)) == int(is_verified)
    assert world.accounts.factors == {}
    assert Activity.VERIFIED not in world.kinds(), "the reset is what is noted"
    assert await code_of(passwords.reset_password(world.ports, call)) == (-1130, 400), "a token is good once"


async def test_a_second_factor_is_asked_for_once_it_was_confirmed_and_each_code_is_good_once() -> None:
    world = World()
    account_id = await world.ann()
    device = await totp.begin(world.ports, world.call({"password": PASSWORD}, account_id))
    assert "ann%40example.com" in device.uri
    await world.signed_in()  # it is not confirmed: nobody is asked for a code
    code = pyotp.TOTP(device.secret).at(NOW // 1_000)
    confirming = world.call({"code": code}, account_id)
    recovery, *_ = (await totp.confirm_device(world.ports, confirming)).recovery_codes
    assert await code_of(totp.confirm_device(world.ports, confirming)) == (-1130, 409)
    assert await code_of(totp.begin(world.ports, world.call({"password": PASSWORD}, account_id))) == (
        -9001,
        401,
    )
    asked = {"email": ANN, "password": PASSWORD}
    assert await code_of(sign_in(world.ports, world.call(asked))) == (-9001, 401)
    assert await code_of(sign_in(world.ports, world.call({**asked, "code": code}))) == (-1002, 401), (
        "it was used"
    )
    later = msgspec.structs.replace(
        world.call({**asked, "code": pyotp.TOTP(device.secret).at(NOW // 1_000 + 30)}),
        now=TimeMs(NOW + 30_000),
    )
    assert isinstance(await sign_in(world.ports, later), Session)
    assert isinstance(await sign_in(world.ports, world.call({**asked, "code": recovery.lower()})), Session)
    assert await code_of(sign_in(world.ports, world.call({**asked, "code": recovery}))) == (-1002, 401)
    assert world.kinds().count(Activity.SIGN_IN_REFUSED) == 2, (
        "a sign-in without a code is no attempt of somebody else"
    )
    assert world.subjects() == ["A second factor was added to your account"]


async def test_an_address_is_verified_by_its_token_alone() -> None:
    world = World()
    await sign_up(world.ports, world.call({"email": ANN, "password": PASSWORD}))
    token = world.accounts.mails[-1][1].body.rpartition("enter: ")[2].split()[0]
    for wrong in ("x", token[:-1]):
        assert await code_of(verification.verify(world.ports, world.call({"token": wrong}))) == (-1130, 400)
    await verification.verify(world.ports, world.call({"token": token}))
    assert await world.ports.users.is_verified(AccountId(1001))
    await verification.ask_again(world.ports, world.call(account_id=1001))
    assert len(world.accounts.mails) == 1, "who has shown it gets no more mails"


async def test_activity_page_by_page() -> None:
    world = World()
    account_id = await world.ann()
    for _ in range(3):
        await world.signed_in()
    numbers: list[int] = []
    before: dict[str, str] = {}
    while page := await get_activity.get_activity(
        world.ports, world.call(account_id=account_id, limit="3", **before)
    ):
        numbers += [each.id for each in page]
        before = {"beforeId": str(numbers[-1])}
    assert numbers == [4, 3, 2, 1]
    (first,) = await get_activity.get_activity(
        world.ports,
        msgspec.structs.replace(world.call(account_id=account_id, beforeId="2"), time_scale=MICROSECONDS),
    )
    assert (first.kind, first.time) == ("signedUp", 1_001_000)
