"""What keys and sessions may do, until when, and from where.

And that none is good for anything once it was revoked.
"""

import time
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.clock import now_ms
from functions.users.session_cookies import COOKIE
from tests.support.api import Api
from tests.support.gateway_processes import Processes
from tests.support.newcomers import ORIGIN, PASSWORD, Person, code_of, newcomer

REVOKED_S = 1.0
"""Within which what was revoked is refused everywhere."""
LIMIT = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "1",
    "price": "10000",
}


@pytest.fixture
def person(url: str) -> Person:
    return newcomer(url)


def test_a_key_may_do_what_its_scopes_say(person: Person) -> None:
    person.ask("POST", "/api/v1/faucet", {"asset": "USDT", "amount": "100000"}).raise_for_status()
    reads, trades, both = person.key(scopes=["read"]), person.key(scopes=["trade"]), person.key()
    assert [code_of(each) for each in (reads, trades, both)] == [0, -2015, 0]
    for method, path, parameters in (
        ("POST", "/api/v3/order", LIMIT),
        ("POST", "/api/v3/order/test", LIMIT),
        ("DELETE", "/api/v3/openOrders", {"symbol": "BTCUSDT"}),
    ):
        assert code_of(reads, method, path, **parameters) == -2015, path
        assert code_of(trades, method, path, **parameters) == 0, path
    assert code_of(reads, "DELETE", "/api/v3/order", symbol="BTCUSDT", orderId=1) == -2015
    restrictions = reads.signed("GET", "/sapi/v1/account/apiRestrictions")
    assert (restrictions["enableReading"], restrictions["enableSpotAndMarginTrading"]) == (True, False)


def test_a_key_is_taken_from_its_networks(person: Person) -> None:
    elsewhere = person.key(networks=["192.0.2.1", "198.51.100.0/24", "2001:db8::/32"])
    here, mapped = (
        person.key(networks=["192.0.2.1", "127.0.0.0/8"]),
        person.key(networks=["::ffff:127.0.0.1"]),
    )
    assert (code_of(elsewhere), code_of(here), code_of(mapped)) == (-2015, 0, 0)
    assert here.signed("GET", "/sapi/v1/account/apiRestrictions")["ipRestrict"]
    listed = person.ask("GET", "/api/v1/api-keys").json()
    assert listed[0]["networks"] == ["192.0.2.1/32", "198.51.100.0/24", "2001:db8::/32"]


def test_a_key_ends_by_itself(person: Person) -> None:
    api = person.key(expiresTime=now_ms() + 1_500)
    assert code_of(api) == 0
    time.sleep(1.6)
    assert code_of(api) == -2015


REFUSED: list[tuple[dict[str, object], int, int]] = [
    ({"password": "wrong horse battery"}, 401, -1002),
    ({}, 400, -1102),
    ({"password": PASSWORD, "scopes": []}, 400, -1130),
    ({"password": PASSWORD, "scopes": ["everything"]}, 400, -1102),
    ({"password": PASSWORD, "networks": ["somewhere"]}, 400, -1130),
    ({"password": PASSWORD, "networks": ["fe80::1%eth0"]}, 400, -1130),
    ({"password": PASSWORD, "networks": ["::1%1/128"]}, 400, -1130),
    ({"password": PASSWORD, "networks": ["10.0.0.0/8"] * 31}, 400, -1102),
    ({"password": PASSWORD, "expiresTime": 1}, 400, -1130),
    ({"password": PASSWORD, "expiresTime": 2**62}, 400, -1130),
    ({"password": PASSWORD, "label": "\x00"}, 400, -1130),
    ({"password": PASSWORD, "publicKey": "no key"}, 400, -1130),
]


def test_keys_that_are_not_made(person: Person) -> None:
    for wanted, status, code in REFUSED:
        refused = person.ask("POST", "/api/v1/api-keys", wanted)
        assert (refused.status_code, refused.json()["code"]) == (status, code), wanted
    assert person.ask("GET", "/api/v1/api-keys").json() == []


def test_rsa_keys_that_are_dear_to_check_are_refused(person: Person) -> None:
    """A key of one's own making may have an exponent as long as itself: a check then costs eight times as
    much."""

    def made(exponent: int, bits: int) -> httpx.Response:
        own = rsa.generate_private_key(65_537, bits).public_key()
        key = rsa.RSAPublicNumbers(exponent, own.public_numbers().n).public_key()
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return person.ask("POST", "/api/v1/api-keys", {"password": PASSWORD, "publicKey": pem.decode()})

    assert [
        made(*each).status_code for each in ((65_537, 2048), (3, 2048), (2**2000 + 1, 2048), (65_537, 2432))
    ] == [
        200,
        400,
        400,
        400,
    ]


def test_a_revoked_key_is_refused_at_every_gateway_within_a_second(processes: Processes) -> None:
    processes.shards()
    urls = [processes.gateway(), processes.gateway()]
    person = newcomer(urls[0])
    api = person.key()
    others = [Api(url, api.key, api.secret) for url in urls]
    for _ in range(3):
        assert [code_of(each) for each in others] == [0, 0]
    for _ in range(2):  # the second time is no other revocation
        person.ask("DELETE", "/api/v1/api-keys", apiKey=api.key).raise_for_status()
    noted = [
        each["detail"]
        for each in person.ask("GET", "/api/v1/activity").json()
        if each["kind"] == "apiKeyRevoked"
    ]
    assert noted == [api.key]
    assert code_of(others[0]) == -2015
    time.sleep(REVOKED_S)
    assert code_of(others[1]) == -2015
    assert code_of(person.key()) == 0


def test_sessions_are_listed_and_ended(person: Person) -> None:
    second, third = person.signed_in_again(), person.signed_in_again()
    listed = person.ask("GET", "/api/v1/sessions").json()
    assert [each["isCurrent"] for each in listed] == [False, False, True]
    assert {each["address"] for each in listed} == {"127.0.0.1"}
    assert all(each["userAgent"].startswith("python-httpx") for each in listed)
    ending = [
        person.ask("DELETE", "/api/v1/sessions", sessionId=listed[0]["sessionId"]).json() for _ in range(2)
    ]
    assert ending == [{"ended": 1}, {"ended": 0}]
    ended = [
        each["detail"] for each in person.ask("GET", "/api/v1/activity").json() if each["kind"] == "signedOut"
    ]
    assert ended == [listed[0]["sessionId"]]
    assert [each.ask("GET", "/api/v1/me").status_code for each in (person, second, third)] == [200, 200, 401]
    stranger = newcomer(person.url)
    assert (
        stranger.ask("DELETE", "/api/v1/sessions", sessionId=listed[1]["sessionId"]).json()["code"] == -1130
    )
    assert second.ask("DELETE", "/api/v1/sessions").json() == {"ended": 1}
    assert [each.ask("GET", "/api/v1/me").status_code for each in (person, second)] == [401, 200]
    assert second.ask("POST", "/api/v1/signout").status_code == 200
    assert second.ask("GET", "/api/v1/me").status_code == 401


def test_a_ticket_reads_and_trades_until_its_session_ends(person: Person) -> None:
    person.ask("POST", "/api/v1/faucet", {"asset": "USDT", "amount": "100000"}).raise_for_status()
    other = person.signed_in_again()
    made = person.ask("POST", "/api/v1/tickets").json()
    assert made["expiresIn"] == 900
    ticket = Api(person.url, made["apiKey"], made["secret"])
    assert [code_of(ticket), code_of(ticket, "POST", "/api/v3/order", **LIMIT)] == [0, 0]
    assert ticket.signed("GET", "/sapi/v1/account/apiRestrictions")["enableWithdrawals"] is False
    assert person.ask("GET", "/api/v1/api-keys").json() == []
    another = other.ask("POST", "/api/v1/tickets").json()
    person.ask("POST", "/api/v1/signout").raise_for_status()
    assert code_of(ticket) == -2015
    assert code_of(Api(person.url, another["apiKey"], another["secret"])) == 0


def test_a_browser_keeps_its_session_in_a_cookie(url: str, person: Person) -> None:
    credentials = {"email": person.email, "password": PASSWORD, "cookie": True}
    made = httpx.post(f"{url}/api/v1/signin", json=credentials, headers={"Origin": ORIGIN})
    assert "token" not in made.json()
    set_cookie = made.headers["set-cookie"]
    assert all(part in set_cookie for part in ("HttpOnly", "Secure", "SameSite=Strict", "Path=/"))
    assert made.headers["cache-control"] == "no-store"
    cookie = {"Cookie": set_cookie.partition(";")[0]}
    assert cookie["Cookie"].startswith(COOKIE)
    me = httpx.get(f"{url}/api/v1/me", headers=cookie).json()
    csrf = made.json()["csrfToken"]
    assert me["csrfToken"] == csrf

    def ticket(**headers: str) -> int:
        return httpx.post(f"{url}/api/v1/tickets", headers={**cookie, **headers}).status_code

    assert ticket(Origin=ORIGIN) == 403
    assert ticket(Origin=ORIGIN, **{"X-CSRF-Token": "0" * 64}) == 403
    assert ticket(**{"X-CSRF-Token": csrf}) == 403
    assert ticket(Origin="https://evil.test", **{"X-CSRF-Token": csrf}) == 403
    assert ticket(Origin=ORIGIN, **{"X-CSRF-Token": csrf}) == 200
    assert httpx.get(f"{url}/api/v1/me", headers={**cookie, "Origin": "https://evil.test"}).status_code == 403
    out = httpx.post(f"{url}/api/v1/signout", headers={**cookie, "Origin": ORIGIN, "X-CSRF-Token": csrf})
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert httpx.get(f"{url}/api/v1/me", headers=cookie).status_code == 401


def test_what_was_done_with_an_account_is_written_down_and_stays(
    processes: Processes, person: Person
) -> None:
    api = person.key(label="bot")
    httpx.post(f"{person.url}/api/v1/signin", json={"email": person.email, "password": "wrong horse battery"})
    person.ask("DELETE", "/api/v1/api-keys", apiKey=api.key)
    person.ask("POST", "/api/v1/signout")
    with psycopg.connect(processes.database_url) as database:
        rows: list[Any] = database.execute(
            "SELECT kind FROM activity JOIN users USING (account_id) WHERE email = %s ORDER BY activity_id",
            (person.email,),
        ).fetchall()
        assert [kind for (kind,) in rows] == [
            "signedUp",
            "signedIn",
            "apiKeyMade",
            "signInRefused",
            "apiKeyRevoked",
            "signedOut",
        ]
        for statement in ("DELETE FROM activity", "UPDATE activity SET kind = ''", "TRUNCATE activity"):
            with pytest.raises(psycopg.errors.RaiseException), database.transaction():
                database.execute(statement)


def test_it_is_said_when_a_key_was_used_last(processes: Processes) -> None:
    processes.shards()
    url = processes.gateway()
    person = newcomer(url)
    began = now_ms()
    api = person.key()
    assert person.ask("GET", "/api/v1/api-keys").json()[0]["lastUsedTime"] is None
    code_of(api)
    deadline = time.monotonic() + 60
    while (used := person.ask("GET", "/api/v1/api-keys").json()[0]["lastUsedTime"]) is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert began <= used <= now_ms()
