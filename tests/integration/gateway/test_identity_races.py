"""What somebody does with a password or a code while somebody else changes it: a lock in the database holds
one of them back."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from tests.support.gateway_processes import Processes
from tests.support.identity import Mails, code_of, post, sign_in
from tests.support.newcomers import PASSWORD, newcomer

NEW_PASSWORD, OTHER_PASSWORD = "an entirely different staple", "yet another battery horse"
TIMEOUT_S = 30
POLL_S = 0.01


class Held:
    """A table that nobody can write to."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._connection = connection

    def await_waiting(self, count: int) -> None:
        """Return when so many statements wait for it."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            row = self._connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
            if row is not None and row[0] == count:
                return
            assert time.monotonic() < deadline, f"{row} statements wait, not {count}"
            time.sleep(POLL_S)


@contextmanager
def held(processes: Processes, table: str) -> Iterator[Held]:
    """Let whoever writes to a table wait while the context lasts."""
    with psycopg.connect(processes.database_url) as connection:
        connection.execute(f"LOCK TABLE {table} IN SHARE MODE")
        yield Held(connection)


@pytest.fixture
def gateway(processes: Processes) -> str:
    return processes.gateway()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_nobody_gets_in_with_the_password_that_is_being_changed(
    processes: Processes, gateway: str, threads: ThreadPoolExecutor
) -> None:
    """Neither as a session that the change does not find, nor as one that comes to count after it was
    ended.
    """
    person = newcomer(gateway)
    change = {"password": PASSWORD, "newPassword": NEW_PASSWORD}
    with held(processes, "sessions") as table:
        signing_in = threads.submit(sign_in, gateway, person.email)
        table.await_waiting(1)
        changing = threads.submit(person.ask, "POST", "/api/v1/password", change)
        table.await_waiting(2)
    assert changing.result().status_code == 200
    refused = signing_in.result()
    assert (refused.status_code, refused.json()["code"]) == (401, -1002)
    assert sign_in(gateway, person.email, NEW_PASSWORD).status_code == 200


def test_no_key_is_made_with_the_password_that_is_being_changed(
    processes: Processes, gateway: str, threads: ThreadPoolExecutor
) -> None:
    """Whoever chooses another password because a stranger knows the old one is rid of that stranger."""
    person = newcomer(gateway)
    other = person.signed_in_again()
    with held(processes, "api_keys") as table:
        making = threads.submit(other.ask, "POST", "/api/v1/api-keys", {"password": PASSWORD})
        table.await_waiting(1)
        change = {"password": PASSWORD, "newPassword": NEW_PASSWORD}
        assert person.ask("POST", "/api/v1/password", change).status_code == 200
    refused = making.result()
    assert (refused.status_code, refused.json()["code"]) == (401, -1002)
    assert person.ask("GET", "/api/v1/api-keys").json() == []


def test_of_two_who_change_the_password_at_once_one_does(
    processes: Processes, gateway: str, threads: ThreadPoolExecutor
) -> None:
    person = newcomer(gateway)
    other = person.signed_in_again()
    with held(processes, "users") as table:
        changing = []
        for who, new in ((person, NEW_PASSWORD), (other, OTHER_PASSWORD)):
            body = {"password": PASSWORD, "newPassword": new}
            changing.append(threads.submit(who.ask, "POST", "/api/v1/password", body))
            table.await_waiting(len(changing))
    assert sorted(each.result().status_code for each in changing) == [200, 401]
    assert sorted(
        sign_in(gateway, person.email, new).status_code for new in (NEW_PASSWORD, OTHER_PASSWORD)
    ) == [
        200,
        401,
    ]


def test_of_two_who_confirm_a_device_at_once_one_has_recovery_codes_and_they_are_good(
    processes: Processes, gateway: str, threads: ThreadPoolExecutor
) -> None:
    person = newcomer(gateway)
    device = person.ask("POST", "/api/v1/totp", {"password": PASSWORD}).raise_for_status().json()
    with held(processes, "recovery_codes") as table:
        confirming = []
        for steps in (-1, 0):
            code = {"code": code_of(device["secret"], steps)}
            confirming.append(threads.submit(person.ask, "POST", "/api/v1/totp/confirm", code))
            table.await_waiting(len(confirming))
    answers = [each.result() for each in confirming]
    assert sorted(each.status_code for each in answers) == [200, 409]
    [codes] = [each.json()["recoveryCodes"] for each in answers if each.status_code == 200]
    assert sign_in(gateway, person.email, code=codes[0]).status_code == 200


def test_a_device_that_was_begun_meanwhile_is_not_taken_for_confirmed(
    processes: Processes, gateway: str, threads: ThreadPoolExecutor
) -> None:
    """Its owner may not have it yet, and would be shut out."""
    person = newcomer(gateway)
    device = person.ask("POST", "/api/v1/totp", {"password": PASSWORD}).raise_for_status().json()
    with held(processes, "recovery_codes") as table:
        confirming = threads.submit(
            person.ask, "POST", "/api/v1/totp/confirm", {"code": code_of(device["secret"])}
        )
        table.await_waiting(1)
        person.ask("POST", "/api/v1/totp", {"password": PASSWORD}).raise_for_status()
    assert confirming.result().status_code == 409
    assert sign_in(gateway, person.email).status_code == 200


def test_a_code_is_good_once_however_many_show_it_at_once(gateway: str, threads: ThreadPoolExecutor) -> None:
    person = newcomer(gateway)
    device = person.ask("POST", "/api/v1/totp", {"password": PASSWORD}).raise_for_status().json()
    confirmed = person.ask("POST", "/api/v1/totp/confirm", {"code": code_of(device["secret"], -1)})
    for code in (confirmed.raise_for_status().json()["recoveryCodes"][0], code_of(device["secret"], 1)):
        answers = list(threads.map(lambda _, code=code: sign_in(gateway, person.email, code=code), range(4)))
        assert sorted(each.status_code for each in answers) == [200, 401, 401, 401]


def test_a_new_password_ends_all_mails_that_could_choose_another(
    processes: Processes, gateway: str, threads: ThreadPoolExecutor
) -> None:
    """Whoever reads the owner's mails has asked for one.

    The owner changes the password, or chooses one by another mail.
    """
    mails = Mails(processes.database_url)
    person = newcomer(gateway)

    def token() -> str:
        mails.let_a_minute_pass()
        post(gateway, "password/forgotten", email=person.email).raise_for_status()
        return mails.token(person.email)

    first, second = token(), token()
    resets = [
        threads.submit(post, gateway, "password/reset", token=first, newPassword=NEW_PASSWORD)
        for _ in range(3)
    ]
    assert sorted(each.result().status_code for each in resets) == [200, 400, 400]
    assert post(gateway, "password/reset", token=second, newPassword=OTHER_PASSWORD).status_code == 400
    third = token()
    again = sign_in(gateway, person.email, NEW_PASSWORD).raise_for_status().json()["token"]
    changed = person._replace(token=again).ask(
        "POST", "/api/v1/password", {"password": NEW_PASSWORD, "newPassword": PASSWORD}
    )
    assert changed.status_code == 200
    assert post(gateway, "password/reset", token=third, newPassword=OTHER_PASSWORD).status_code == 400
