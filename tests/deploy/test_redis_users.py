"""Each kind of process has a Redis user of its own, who may do all that it does, and little else."""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.sync.client import connect

from cli.local import embedded
from cli.local.free_ports import free_port
from cli.local.processes import ProcessSpec
from cli.secret_files import Hosts, secret_files
from runtime.database_roles import ServiceRole
from tests.deploy.development_users import FILE, development_users
from tests.support.api import Api, RefusedError, new_account
from tests.support.databases import service_url
from tests.support.eventually import eventually

TIMEOUT_S = 150
ORDERS = 100
"""Acknowledged before each restart; an account may have 200 open in a market."""
RESTARTS = 2
ROLES = {role.service: role for role in ServiceRole}
KEYS_OF = {
    "gateway": ("session:x", "api_key:x"),
    "edge": ("listen_key:x",),
    "engine": ("out:{0}", "lease:{0}", "config:{0}", "snapshot:{0}:x", "skips:{0}"),
    "feeds": ("depth:{0}:BTCUSDT", "feeds:{0}"),
    "persist": ("{dramatiq}:ingest",),
}
"""What only this kind of process writes, or only the two servers of functions do."""


class Server:
    """A Redis whose users are those of a deployment."""

    def __init__(self, folder: Path, port: int) -> None:
        self.files = secret_files(b"s" * 32, Hosts(redis=f"127.0.0.1:{port}"))
        (folder / "users.acl").write_text(self.files["redis/users.acl"], "utf-8")
        self.command = (
            str(embedded.find_redis_server()),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always", "--aclfile", str(folder / "users.acl")),
            *("--enable-debug-command", "yes"),  # so that it is the ACL that refuses it
        )
        self.process: subprocess.Popen[bytes] | None = None

    def kill_and_start_again(self) -> None:
        """End the server at once, and start it on what it has left on disk."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually("Redis", self.is_ready)

    def client(self, user: str) -> redis.Redis:
        """Return a connection as one of the users."""
        return redis.Redis.from_url(self.files[f"{user}/redis-url"])

    def is_ready(self) -> bool:
        """Return what the health check asks."""
        try:
            user, host = "probe", self.files["operator/redis-url"].rpartition("@")[2]
            return bool(redis.Redis.from_url(f"redis://{user}:none@{host}").ping())
        except redis.RedisError:
            return False

    def refusals(self) -> list[Any]:
        """Return what was refused to whom, but for CLIENT: the library asks for more of it than an old Redis
        knows, and does without."""
        found: list[Any] = self.client("operator").acl_log()
        return [(each["username"], each["object"]) for each in found if each["object"] != "client"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, free_port())
    with _running(server.command) as server.process:
        eventually("Redis", server.is_ready)
        server.client("operator").acl_log_reset()  # the library tries more than a probe may
        yield server
        server.process.kill()
        server.process.wait(TIMEOUT_S)


@contextmanager
def _running(
    command: tuple[str, ...], environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def _exchange(
    server: Server, database_url: str, folder: Path
) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """Run every process as its own user; yield the REST and the WebSocket URL, and the engine that leads."""
    ports = {"rest_port": free_port(), "ws_port": free_port()}
    key = server.files["gateway/master-key"]
    common: dict[str, int | str] = {"data_dir": str(folder), "master_key": key, **ports}
    common["orders_per_10s"] = 1_000_000

    with ExitStack() as stack:

        def start(user: str, module: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
            url = server.files[f"{user}/redis-url"]
            own = database_url if user not in ROLES else service_url(database_url, ROLES[user])
            spec = ProcessSpec.of_module(
                user, module, *arguments, redis_url=url, database_url=own, **common, **settings
            )
            return stack.enter_context(_running(spec.command.arguments, spec.whole_environment()))

        start("persist", "persist.main", "nudge")
        start("persist", "persist.main", "work")
        leader = start("engine", "engine_worker.main", engine="engine-0")
        operator = server.client("operator")
        eventually("somebody leads", lambda: operator.get("lease:{0}"), TIMEOUT_S)
        start("engine", "engine_worker.main", engine="engine-0-standby")
        start("feeds", "feeds.main")
        start("gateway", "gateway.main")
        start("edge", "ws_edge.main")
        rest, streams = f"http://127.0.0.1:{ports['rest_port']}", f"ws://127.0.0.1:{ports['ws_port']}"
        eventually("the gateway answers", lambda: _answers(Api(rest)), TIMEOUT_S)
        eventually("a standby follows", lambda: operator.hlen("standbys:{0}"), TIMEOUT_S)
        yield rest, streams, leader


def _answers(api: Api) -> bool:
    try:
        return bool(api.get("/api/v3/exchangeInfo"))
    except (OSError, AssertionError, Exception):
        return False


# Takes long: every process of an exchange starts, and then several commands, each a Python of its own.
def test_nobody_is_refused_what_an_order_needs(server: Server, database_url: str, tmp_path: Path) -> None:
    with _exchange(server, database_url, tmp_path) as (rest, streams, leader):
        account, other = new_account(rest, USDT="1000000"), new_account(rest, BTC="10")
        listen_key = json.loads(account.http.post("/api/v3/userDataStream").text)["listenKey"]
        with connect(f"{streams}/stream?streams=btcusdt@trade/btcusdt@depth/{listen_key}") as stream:
            resting = other.order("BTCUSDT", "SELL", "LIMIT", price="50000", quantity="2")
            account.order("BTCUSDT", "BUY", "MARKET", quantity="1")
            seen = {json.loads(stream.recv(TIMEOUT_S))["stream"] for _ in range(6)}
        assert {"btcusdt@trade", listen_key} <= seen
        assert eventually("history", lambda: account.historical_trades("BTCUSDT"), TIMEOUT_S)
        assert account.get("/api/v3/ticker/24hr", symbol="BTCUSDT")["count"] == 1
        leader.kill()
        other.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", orderId=resting["orderId"])
        assert account.balances()["BTC"][0] > 0
        for command in (("shards",), ("audit",), ("markets", "plan")):
            done = _command(server, "gateway", database_url, tmp_path, *command)
            assert done.returncode == 0, done.stdout + done.stderr
    # As docs/how-to/deploy-on-kubernetes.md has it, where the engines are stopped, and have been for some
    # seconds.
    said: list[str] = []

    def has_planned() -> bool:
        done = _command(server, "persist", database_url, tmp_path, "restore", "--dry-run")
        said.append(done.stdout + done.stderr)
        return done.returncode == 0

    try:
        eventually("a restore is planned", has_planned, TIMEOUT_S)
    except AssertionError:
        pytest.fail(said[-1])
    assert server.refusals() == []


def _command(
    server: Server, user: str, database_url: str, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run an `exchange` command as the user of a process, as in its pod."""
    environment = {
        "PATH": os.environ["PATH"],
        "EXCHANGE_REDIS_URL": server.files[f"{user}/redis-url"],
        "EXCHANGE_DATABASE_URL": service_url(database_url, ROLES[user]),
        "EXCHANGE_DATA_DIR": str(folder / "elsewhere"),
    }
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_a_restart_under_load_loses_no_acknowledged_order(
    server: Server, database_url: str, tmp_path: Path
) -> None:
    with _exchange(server, database_url, tmp_path) as (rest, _, _):
        accounts = [new_account(rest, USDT="1000000") for _ in range(4)]
        acknowledged: list[tuple[Api, int]] = []
        stop = threading.Event()

        def trade(account: Api) -> None:
            while not stop.is_set():
                try:
                    order = account.order("BTCUSDT", "BUY", "LIMIT", price="50000", quantity="0.001")
                    acknowledged.append((account, order["orderId"]))
                except RefusedError as refusal:
                    if refusal.status != 503:
                        raise
                    time.sleep(0.05)

        with ThreadPoolExecutor(len(accounts)) as pool:
            traders = [pool.submit(trade, account) for account in accounts]
            try:
                for restart in range(1, RESTARTS + 1):
                    eventually("orders", lambda: len(acknowledged) >= ORDERS * restart, TIMEOUT_S)  # noqa: B023
                    server.kill_and_start_again()
                eventually("orders after it", lambda: len(acknowledged) >= ORDERS * (RESTARTS + 1), TIMEOUT_S)
            finally:
                stop.set()
            for trader in traders:
                trader.result(TIMEOUT_S)
        lost = [
            order_id
            for account, order_id in acknowledged
            if account.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=order_id)["status"] != "NEW"
        ]
        assert lost == []


def test_the_log_tells_what_is_refused(server: Server) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        server.client("feeds").get("session:x")
    assert [user for user, _ in server.refusals()] == ["feeds"]


def test_each_writes_its_own_keys_and_nobody_elses(server: Server) -> None:
    for owner, keys in KEYS_OF.items():
        for key in keys:
            server.client(owner).delete(key)
            strangers = (
                KEYS_OF.keys() - {owner} - ({"gateway", "edge"} if owner in ("gateway", "edge") else set())
            )
            for user in sorted(strangers):
                if _tells_reading_from_writing(server) or "{" not in key:
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        server.client(user).delete(key)


def _tells_reading_from_writing(server: Server) -> bool:
    version = str(server.client("operator").info("server")["redis_version"])
    return int(version.split(".")[0]) >= 7


def test_nobody_may_stop_empty_or_configure_it_and_strangers_nothing(server: Server) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        server.client("gateway").keys("*")
    for user in KEYS_OF:
        for command in (
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("SHUTDOWN",),
            ("ACL", "LIST"),
            ("DEBUG", "JMAP"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                server.client(user).execute_command(*command)  # type: ignore[no-untyped-call]
    host = server.files["operator/redis-url"].rpartition("@")[2]
    for url in (f"redis://{host}", f"redis://:{secrets.token_hex(4)}@{host}"):
        with pytest.raises((redis.AuthenticationError, redis.exceptions.NoPermissionError)):
            redis.Redis.from_url(url).ping()
    with pytest.raises(redis.exceptions.NoPermissionError):
        redis.Redis.from_url(f"redis://probe:none@{host}").get("x")


def test_the_development_overlays_have_the_users_of_the_one_table() -> None:
    assert FILE.read_text("utf-8") == development_users(), "python -m tests.deploy.development_users"
