"""Showing who one is: passwords, mails, second factors; guessing, and who is kept out by it."""

import itertools
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from click.testing import CliRunner

from adapters.attempts import OF_ACCOUNT, OF_PAIR
from cli.commands.accounts import accounts
from cli.console import running_settings
from cli.rest_client import funded_account
from cli.verifying import verified
from client.blocking import RequestError
from runtime.settings import PREFIX
from tests.support.gateway_processes import Processes
from tests.support.identity import Mails, code_of, post, sign_in
from tests.support.newcomers import PASSWORD, Person, newcomer, signed_in
from tests.support.newcomers import code_of as refusal_of

NEW_PASSWORD = "an entirely different staple"


@pytest.fixture
def mails(processes: Processes) -> Mails:
    return Mails(processes.database_url)


@pytest.fixture
def gateway(processes: Processes) -> str:
    """The URL of a gateway; no shard is needed."""
    return processes.gateway()


def test_nobody_learns_who_has_an_account(gateway: str, mails: Mails) -> None:
    person = newcomer(gateway)
    taken = post(gateway, "signup", email=person.email.upper(), password=NEW_PASSWORD)
    free = post(gateway, "signup", email=f"x{person.email}", password=NEW_PASSWORD)
    assert (taken.status_code, free.status_code) == (200, 200)
    assert taken.json().keys() == free.json().keys()
    assert mails.to(person.email)[0][0] == "You have an account already"
    assert sign_in(gateway, person.email, NEW_PASSWORD).status_code == 401
    assert sign_in(gateway, person.email).status_code == 200
    unknown, wrong = sign_in(gateway, "nobody@example.com"), sign_in(gateway, person.email, NEW_PASSWORD)
    assert (unknown.status_code, unknown.json()) == (wrong.status_code, wrong.json())
    known = post(gateway, "password/forgotten", email=person.email)
    assert known.json() == post(gateway, "password/forgotten", email="nobody@example.com").json() == {}


def test_passwords_that_attackers_try_first_are_refused(gateway: str) -> None:
    email = "margaret.hamilton@example.com"
    for password in ("password", "12345678", "aaaaaaaa", "margaret.hamilton", "qwertyuiop", "short"):
        refused = post(gateway, "signup", email=email, password=password)
        assert refused.status_code == 400, password
        assert refused.json()["code"] in (-1130, -1102)
    assert post(gateway, "signup", email=email, password="x" * 1025).status_code == 400
    assert post(gateway, "signup", email=email, password=PASSWORD).status_code == 200


def test_an_address_is_verified_by_its_mail_once(processes: Processes, mails: Mails) -> None:
    processes.shards()
    url = processes.gateway(VERIFICATION_REQUIRED="true")
    person = newcomer(url)
    key = {"password": PASSWORD}
    for path, body in (("api-keys", key), ("tickets", None), ("faucet", {"asset": "USDT", "amount": "1"})):
        refused = person.ask("POST", f"/api/v1/{path}", body)
        assert (refused.status_code, refused.json()["code"]) == (403, -1002), path
    assert post(url, "verification", token="wrong").json()["code"] == -1130
    first = mails.token(person.email)
    mails.let_a_minute_pass()
    person.ask("POST", "/api/v1/verification/mail").raise_for_status()
    second = mails.token(person.email)
    assert second != first
    assert (
        post(url, "password/reset", token=second, newPassword=NEW_PASSWORD).status_code == 400
    )  # not what it is for
    assert [post(url, "verification", token=second).status_code for _ in range(2)] == [200, 400]
    for path, body in (("api-keys", key), ("tickets", None), ("faucet", {"asset": "USDT", "amount": "1"})):
        person.ask("POST", f"/api/v1/{path}", body).raise_for_status()


def test_programs_are_verified_by_an_operators_word(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processes.shards()
    url = processes.gateway(VERIFICATION_REQUIRED="true")
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path))
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", processes.database_url)
    with pytest.raises(RequestError, match="403"):  # the control
        funded_account(url, {"USDT": "1"}, "demo")
    assert funded_account(url, {"USDT": "1"}, "demo", partial(verified, running_settings()))
    person = newcomer(url)
    number = person.ask("GET", "/api/v1/me").json()["accountId"]
    for who in (person.email.upper(), str(number)):
        done = CliRunner().invoke(accounts, ["verify", who])
        assert done.output == f"the address of account {number} is verified\n"
    assert CliRunner().invoke(accounts, ["verify", "nobody@example.com"]).exit_code == 1
    person.ask("POST", "/api/v1/api-keys", {"password": PASSWORD}).raise_for_status()
    noted = person.ask("GET", "/api/v1/activity").json()
    assert [each["detail"] for each in noted if each["kind"] == "verified"] == ["by an operator"] * 2


def test_a_password_is_changed_and_ends_the_other_sessions(gateway: str, mails: Mails) -> None:
    person = newcomer(gateway)
    other = person.signed_in_again()
    wrong = {"password": "wrong horse battery", "newPassword": NEW_PASSWORD}
    assert person.ask("POST", "/api/v1/password", wrong).status_code == 401
    same = {"password": PASSWORD, "newPassword": PASSWORD}
    assert person.ask("POST", "/api/v1/password", same).json()["code"] == -1130
    weak = {"password": PASSWORD, "newPassword": "password"}
    assert person.ask("POST", "/api/v1/password", weak).json()["code"] == -1130
    person.ask(
        "POST", "/api/v1/password", {"password": PASSWORD, "newPassword": NEW_PASSWORD}
    ).raise_for_status()
    assert [each.ask("GET", "/api/v1/me").status_code for each in (person, other)] == [200, 401]
    assert [sign_in(gateway, person.email, each).status_code for each in (PASSWORD, NEW_PASSWORD)] == [
        401,
        200,
    ]
    assert mails.to(person.email)[0][0] == "Your password was changed"


def test_a_forgotten_password_is_chosen_anew_by_mail(
    gateway: str, processes: Processes, mails: Mails
) -> None:
    person = newcomer(gateway)
    post(gateway, "password/forgotten", email=person.email).raise_for_status()
    token = mails.token(person.email)
    assert (
        post(gateway, "password/reset", token=token, newPassword="password").json()["code"] == -1130
    )  # it is still good
    assert [
        post(gateway, "password/reset", token=token, newPassword=NEW_PASSWORD).status_code for _ in range(2)
    ] == [
        200,
        400,
    ]
    assert person.ask("GET", "/api/v1/me").status_code == 401
    assert sign_in(gateway, person.email, NEW_PASSWORD).status_code == 200
    mails.let_a_minute_pass()
    post(gateway, "password/forgotten", email=person.email).raise_for_status()
    late = mails.token(person.email)
    with psycopg.connect(processes.database_url) as database:
        database.execute("UPDATE mail_tokens SET expires_at = now() - interval '1 second'")
    assert post(gateway, "password/reset", token=late, newPassword=PASSWORD).status_code == 400


def test_the_owner_hears_of_a_new_device(gateway: str, mails: Mails) -> None:
    person = newcomer(gateway)
    before = len(mails.to(person.email))
    assert sign_in(gateway, person.email).status_code == 200
    assert len(mails.to(person.email)) == before
    credentials = {"email": person.email, "password": PASSWORD}
    httpx.post(
        f"{gateway}/api/v1/signin", json=credentials, headers={"User-Agent": "another"}
    ).raise_for_status()
    subject, body = mails.to(person.email)[0]
    assert subject == "A new sign-in"
    assert "127.0.0.1" in body
    assert "another" in body


def with_factor(person: Person) -> tuple[str, list[str]]:
    """Give an account a second factor; return its secret and the recovery codes."""
    device = person.ask("POST", "/api/v1/totp", {"password": PASSWORD}).raise_for_status().json()
    assert device["uri"].startswith("otpauth://totp/")
    confirmed = person.ask("POST", "/api/v1/totp/confirm", {"code": code_of(device["secret"], -1)})
    return device["secret"], confirmed.raise_for_status().json()["recoveryCodes"]


def test_what_a_stranger_made_with_an_address_is_gone_when_its_reader_chooses_a_password(
    processes: Processes, mails: Mails
) -> None:
    processes.shards()
    gateway = processes.gateway()
    stranger = newcomer(gateway)
    key = stranger.key()
    assert refusal_of(key, "GET", "/api/v3/account") == 0
    with_factor(stranger)
    me = stranger.ask("GET", "/api/v1/me").json()
    assert (me["isVerified"], me["hasSecondFactor"]) == (False, True)
    post(gateway, "password/forgotten", email=stranger.email)
    reset = {"token": mails.token(stranger.email), "newPassword": NEW_PASSWORD}
    post(gateway, "password/reset", **reset).raise_for_status()  # without a code
    assert stranger.ask("GET", "/api/v1/me").status_code == 401
    assert refusal_of(key, "GET", "/api/v3/account") == -2015
    owner = Person(
        gateway,
        stranger.email,
        sign_in(gateway, stranger.email, NEW_PASSWORD).raise_for_status().json()["token"],
    )
    me = owner.ask("GET", "/api/v1/me").json()
    assert (me["isVerified"], me["hasSecondFactor"]) == (True, False)
    assert owner.ask("GET", "/api/v1/api-keys").json() == []


def test_a_second_factor_is_demanded_and_each_code_is_good_once(gateway: str, mails: Mails) -> None:
    person = newcomer(gateway)
    post(gateway, "verification", token=mails.token(person.email)).raise_for_status()
    assert person.ask("POST", "/api/v1/totp", {"password": "wrong horse battery"}).status_code == 401
    assert person.ask("POST", "/api/v1/totp/confirm", {"code": "000000"}).status_code == 409
    secret, recovery = with_factor(person)
    assert mails.to(person.email)[0][0] == "A second factor was added to your account"
    assert person.ask("POST", "/api/v1/totp", {"password": PASSWORD}).json()["code"] == -9001
    needed = sign_in(gateway, person.email)
    assert (needed.status_code, needed.json()["code"]) == (401, -9001)
    used = code_of(secret)
    assert [sign_in(gateway, person.email, code=each).status_code for each in (used, used)] == [200, 401]
    assert [sign_in(gateway, person.email, code=recovery[0]).status_code for _ in range(2)] == [200, 401]
    key = {"password": PASSWORD}
    assert person.ask("POST", "/api/v1/api-keys", key).json()["code"] == -9001
    assert person.ask("POST", "/api/v1/api-keys", {**key, "code": recovery[1].lower()}).status_code == 200
    post(gateway, "password/forgotten", email=person.email)
    reset = {"token": mails.token(person.email), "newPassword": NEW_PASSWORD}
    assert post(gateway, "password/reset", **reset).json()["code"] == -9001
    assert post(gateway, "password/reset", **reset, code=recovery[2]).status_code == 200
    again = signed_in_with(gateway, person.email, NEW_PASSWORD, recovery[3])
    assert (
        again.ask("POST", "/api/v1/totp/remove", {"password": NEW_PASSWORD, "code": "000000"}).status_code
        == 401
    )
    removing = {"password": NEW_PASSWORD, "code": recovery[4]}
    again.ask("POST", "/api/v1/totp/remove", removing).raise_for_status()
    assert sign_in(gateway, person.email, NEW_PASSWORD).status_code == 200


def test_a_device_whose_secret_no_key_opens_is_no_way_in_and_no_dead_end(
    processes: Processes, gateway: str
) -> None:
    """The operator has lost the master key, say."""
    person = newcomer(gateway)
    secret, recovery = with_factor(person)
    with psycopg.connect(processes.database_url) as connection:
        connection.execute("UPDATE users SET totp_secret = 'damaged' WHERE email = %s", (person.email,))
    for code in (code_of(secret), "000000"):
        refused = sign_in(gateway, person.email, code=code)
        assert (refused.status_code, refused.json()["code"]) == (401, -1002)
        assert "recovery code" in refused.json()["msg"]
    assert sign_in(gateway, person.email, code=recovery[0]).status_code == 200
    begun = person.ask("POST", "/api/v1/totp", {"password": PASSWORD})
    assert begun.json()["code"] == -9001
    removing = {"password": PASSWORD, "code": recovery[1]}
    assert person.ask("POST", "/api/v1/totp/remove", removing).status_code == 200
    assert person.ask("POST", "/api/v1/totp", {"password": PASSWORD}).status_code == 200


def signed_in_with(url: str, email: str, password: str, code: str) -> Person:
    return Person(url, email, sign_in(url, email, password, code=code).raise_for_status().json()["token"])


def test_who_guesses_has_to_wait_longer_each_time_and_the_owner_does_not(processes: Processes) -> None:
    """From the networks 192.0.2.0/24 an account is guessed at; its owner comes from another."""
    url = processes.gateway(RATE_LIMITS_ENABLED="true", TRUSTED_PROXIES="127.0.0.1")

    def attempt(network: str, password: str, email: str) -> httpx.Response:
        body = {"email": email, "password": password}
        return httpx.post(f"{url}/api/v1/signin", json=body, headers={"X-Forwarded-For": network}, timeout=30)

    email = f"{secrets.token_hex(6)}@example.com"
    post(url, "signup", email=email, password=PASSWORD).raise_for_status()
    assert attempt("198.51.100.1", PASSWORD, email).status_code == 200
    said = guess_until_it_has_to_wait(lambda: attempt("192.0.2.1", "a guess", email), OF_PAIR.free + 1)
    assert said.json()["code"] == -1003
    # The first wait is over within a second: the machine may be slower than that.
    guess_until_it_has_to_wait(lambda: attempt("192.0.2.1", "a guess", email), wait_s=4)
    assert attempt("192.0.2.1", PASSWORD, email).status_code == 429  # what is right is not looked at either
    networks = (f"192.0.2.{number}" for number in itertools.count(2))
    guess_until_it_has_to_wait(lambda: attempt(next(networks), "a guess", email))
    assert attempt("198.51.100.1", PASSWORD, email).status_code == 200  # the owner was here before
    guess_until_it_has_to_wait(
        lambda: attempt("203.0.113.1", PASSWORD, "nobody@example.com"), OF_PAIR.free + 1
    )


def guess_until_it_has_to_wait(
    attempt: Callable[[], httpx.Response], looked_at_min: int = 0, *, wait_s: int = 1
) -> httpx.Response:
    """Attempt until one is refused for `wait_s` or longer; return its answer.

    Before that at least `looked_at_min` are looked at; on a slow machine more, since short waits end between
    two attempts.
    """
    looked_at, deadline = 0, time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = attempt()
        if answer.status_code == 401:
            looked_at += 1
            continue
        assert answer.status_code == 429, answer.text
        assert looked_at >= looked_at_min
        left_s = int(answer.headers["retry-after"])
        if left_s >= wait_s:
            return answer
        time.sleep(left_s)
    pytest.fail(f"nobody has to wait {wait_s} s")


def test_a_stolen_session_lets_nobody_guess_from_many_networks(processes: Processes) -> None:
    """Neither at the password, nor with a mail's token at the second factor.

    The owner goes on from where they were before.
    """
    url = processes.gateway(RATE_LIMITS_ENABLED="true", TRUSTED_PROXIES="127.0.0.1")
    person = newcomer(url)
    change = {"newPassword": NEW_PASSWORD, "password": "a guess"}

    def attempt(network: str, **body: str) -> httpx.Response:
        headers = {**person.bearer, "X-Forwarded-For": network}
        return httpx.post(f"{url}/api/v1/password", json={**change, **body}, headers=headers, timeout=30)

    networks = (f"192.0.2.{number}" for number in itertools.count())
    guess_until_it_has_to_wait(lambda: attempt(next(networks)), OF_ACCOUNT.free + 1)
    assert attempt("127.0.0.1", password=PASSWORD).status_code == 200


def test_who_guesses_at_the_second_factor_is_shown(gateway: str) -> None:
    """They have the password."""
    person = newcomer(gateway)
    with_factor(person)
    assert sign_in(gateway, person.email).json()["code"] == -9001
    assert sign_in(gateway, person.email, code="000000").status_code == 401
    kinds = [each["kind"] for each in person.ask("GET", "/api/v1/activity").json()]
    assert kinds == ["signInRefused", "secondFactorAdded", "signedIn", "signedUp"]


def test_what_was_done_is_shown_to_its_owner_alone(gateway: str) -> None:
    person, stranger = newcomer(gateway), newcomer(gateway)
    sign_in(gateway, person.email, "wrong horse battery")
    shown: list[dict[str, Any]] = person.ask("GET", "/api/v1/activity").json()
    assert [each["kind"] for each in shown] == ["signInRefused", "signedIn", "signedUp"]
    assert {each["address"] for each in shown} == {"127.0.0.1"}
    page = person.ask("GET", "/api/v1/activity", limit="1", beforeId=str(shown[0]["id"])).json()
    assert page == shown[1:2]
    assert len(stranger.ask("GET", "/api/v1/activity").json()) == 2
    assert signed_in(gateway, stranger.email).ask("GET", "/api/v1/activity").status_code == 200
