"""New accounts with their sessions, keys and second factors."""

import secrets
from typing import NamedTuple

import httpx

from tests.support.api import Api, RefusedError

PASSWORD = "correct horse battery"


ORIGIN = "http://localhost:3000"


class Person(NamedTuple):
    """Somebody who is signed in."""

    url: str
    email: str
    token: str

    @property
    def bearer(self) -> dict[str, str]:
        """The header that says so."""
        return {"Authorization": f"Bearer {self.token}"}

    def ask(self, method: str, path: str, body: object = None, **parameters: str) -> httpx.Response:
        """Ask as the person."""
        return httpx.request(method, f"{self.url}{path}", params=parameters, json=body, headers=self.bearer)

    def key(self, **wanted: object) -> Api:
        """Return a client with a new key."""
        made = (
            self.ask("POST", "/api/v1/api-keys", {"password": PASSWORD, **wanted}).raise_for_status().json()
        )
        return Api(self.url, made["apiKey"], made["secret"])

    def signed_in_again(self) -> "Person":
        """Return the person with another session."""
        return signed_in(self.url, self.email)


def signed_in(url: str, email: str) -> Person:
    answer = httpx.post(f"{url}/api/v1/signin", json={"email": email, "password": PASSWORD})
    return Person(url, email, answer.raise_for_status().json()["token"])


def newcomer(url: str) -> Person:
    """Sign somebody up."""
    email = f"{secrets.token_hex(6)}@example.com"
    httpx.post(f"{url}/api/v1/signup", json={"email": email, "password": PASSWORD}).raise_for_status()
    return signed_in(url, email)


def code_of(api: Api, method: str = "GET", path: str = "/api/v3/account", **parameters: str | int) -> int:
    """Return the code of a refusal, 0 for none."""
    try:
        api.signed(method, path, **parameters)
    except RefusedError as error:
        return int(error.code)
    return 0
