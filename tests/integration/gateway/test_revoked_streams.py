"""Streams of an account end with the credential that they were opened with, also on an edge that stood still
meanwhile."""

import asyncio
import json
import os
import signal
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from adapters.clock import now_ms
from functions.users.session_cookies import COOKIE
from tests.support.api import Api, signature_of
from tests.support.gateway_processes import Processes
from tests.support.newcomers import Person, newcomer

ENDED_S = 1.0
TIMEOUT_S = 60
PAUSE_S = 3.0


class Running(NamedTuple):
    """What answers."""

    rest: str
    edge: str
    edge_pid: int


@pytest.fixture
def running(processes: Processes) -> Running:
    processes.shards()
    processes.feeds()
    rest, edge = processes.gateway(), processes.edge()
    return Running(rest, edge, processes.started[-1].pid)


async def heard(socket: ClientConnection, kind: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Return the next event of a kind, whatever else is said."""
    async with asyncio.timeout(timeout_s):
        while True:
            said = json.loads(await socket.recv())
            event = said.get("event", said)
            if event.get("e") == kind:
                return dict(event)


async def silent(socket: ClientConnection, kind: str, seconds: float) -> bool:
    """Return whether no event of a kind comes."""
    try:
        await heard(socket, kind, seconds)
    except TimeoutError:
        return True
    return False


async def subscribe(socket: ClientConnection, api: Api) -> None:
    """Open the account's stream on the WebSocket API."""
    parameters: dict[str, Any] = {"apiKey": api.key, "timestamp": now_ms()}
    payload = "&".join(f"{name}={parameters[name]}" for name in sorted(parameters))
    parameters["signature"] = signature_of(api.secret, payload)
    await socket.send(
        json.dumps({"id": 1, "method": "userDataStream.subscribe.signature", "params": parameters})
    )
    assert json.loads(await socket.recv())["status"] == 200


def listen_key(api: Api) -> str:
    return str(api.http.post("/api/v3/userDataStream").raise_for_status().json()["listenKey"])


def pay(person: Person) -> None:
    person.ask("POST", "/api/v1/faucet", {"asset": "USDT", "amount": "1"}).raise_for_status()


def ticket_of(person: Person) -> Api:
    made = person.ask("POST", "/api/v1/tickets").raise_for_status().json()
    return Api(person.url, made["apiKey"], made["secret"])


async def test_streams_end_within_a_second_and_those_of_others_go_on(running: Running) -> None:
    person = newcomer(running.rest)
    stolen, kept = person.key(), person.key()
    ticket = ticket_of(other := person.signed_in_again())
    api_url = f"{running.edge}/ws-api/v3"
    async with (
        connect(api_url) as by_stolen,
        connect(api_url) as by_kept,
        connect(api_url) as by_ticket,
        connect(f"{running.edge}/ws/{listen_key(stolen)}") as by_listen_key,
    ):
        for socket, api in ((by_stolen, stolen), (by_kept, kept), (by_ticket, ticket)):
            await subscribe(socket, api)
        pay(person)
        for socket in (by_stolen, by_kept, by_ticket, by_listen_key):
            await heard(socket, "balanceUpdate")
        before = listen_key(kept)
        person.ask("DELETE", "/api/v1/api-keys", apiKey=stolen.key).raise_for_status()
        await asyncio.gather(
            heard(by_stolen, "eventStreamTerminated", ENDED_S),
            heard(by_listen_key, "listenKeyExpired", ENDED_S),
        )
        pay(person)
        for socket in (by_kept, by_ticket):
            await heard(socket, "balanceUpdate")
        assert await silent(by_stolen, "balanceUpdate", 0.5)
        assert await silent(by_listen_key, "balanceUpdate", 0.1)
        assert listen_key(kept) == before
        async with connect(f"{running.edge}/ws/{before}") as by_kept_listen_key:
            pay(person)
            await heard(by_kept_listen_key, "balanceUpdate")
        other.ask("POST", "/api/v1/signout").raise_for_status()
        await heard(by_ticket, "eventStreamTerminated", ENDED_S)
        pay(person)
        await heard(by_kept, "balanceUpdate")
        assert await silent(by_ticket, "balanceUpdate", 0.5)


async def opens(running: Running, key: str) -> bool:
    try:
        async with connect(f"{running.edge}/ws/{key}"):
            return True
    except InvalidStatus as refused:
        code = int(json.loads(refused.response.body)["code"])
    return {-1125: False}[code]


async def test_no_listen_key_outlives_what_it_was_made_with(running: Running) -> None:
    """Not those either that were made at once, of which one is forgotten.

    Nor the one that others of the account keep alive.
    """
    person = newcomer(running.rest)
    stolen, kept = person.key(), person.key()
    async with httpx.AsyncClient(base_url=running.rest, headers={"X-MBX-APIKEY": stolen.key}) as thief:
        await asyncio.gather(*(thief.get("/api/v3/ping") for _ in range(20)))  # all connected
        answers = await asyncio.gather(*(thief.post("/api/v3/userDataStream") for _ in range(20)))
    keys = {answer.json()["listenKey"] for answer in answers}
    other = person.signed_in_again()
    of_ticket = listen_key(ticket_of(other))
    assert [await opens(running, key) for key in (*keys, of_ticket)] == [True] * (len(keys) + 1)
    person.ask("DELETE", "/api/v1/api-keys", apiKey=stolen.key).raise_for_status()
    other.ask("POST", "/api/v1/signout").raise_for_status()
    await asyncio.sleep(ENDED_S)
    assert [await opens(running, key) for key in (*keys, of_ticket)] == [False] * (len(keys) + 1)
    for key in (*keys, of_ticket):
        assert kept.http.put("/api/v3/userDataStream", params={"listenKey": key}).json()["code"] == -1125
    assert await opens(running, listen_key(kept))


async def test_an_edge_that_stood_still_says_nothing_more_to_who_was_thrown_out(running: Running) -> None:
    """What happened meanwhile waits in its sockets; it looks at the revocations before it tells anybody."""
    person = newcomer(running.rest)
    stolen, kept = person.key(), person.key()
    async with (
        connect(f"{running.edge}/ws-api/v3") as by_stolen,
        connect(f"{running.edge}/ws-api/v3") as by_kept,
    ):
        await subscribe(by_stolen, stolen)
        await subscribe(by_kept, kept)
        os.kill(running.edge_pid, signal.SIGSTOP)
        try:
            person.ask("DELETE", "/api/v1/api-keys", apiKey=stolen.key).raise_for_status()
            pay(person)
            await asyncio.sleep(PAUSE_S)
        finally:
            os.kill(running.edge_pid, signal.SIGCONT)
        first = json.loads(await asyncio.wait_for(by_stolen.recv(), TIMEOUT_S))["event"]["e"]
        assert first == "eventStreamTerminated"
        await heard(by_kept, "balanceUpdate")  # held back, and told after all


async def test_a_page_of_another_origin_opens_nothing_with_a_cookie(running: Running) -> None:
    """Browsers send cookies along to whatever WebSocket a page asks for."""
    cookie = {"Cookie": f"{COOKIE}=anything"}
    ours = {**cookie, "Origin": "http://localhost:3000"}
    async with connect(f"{running.edge}/ws/btcusdt@trade", additional_headers=ours):
        pass
    for headers in ({**cookie, "Origin": "https://evil.test"}, {**cookie, "Origin": "null"}, cookie):
        for path in ("/ws/btcusdt@trade", "/ws-api/v3", "/stream?streams=btcusdt@trade"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{running.edge}{path}", additional_headers=headers)
            assert refused.value.response.status_code == 403
            assert json.loads(refused.value.response.body)["code"] == -1002
