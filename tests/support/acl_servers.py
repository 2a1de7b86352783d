"""A Redis with the project's users, its data on disk, and an engine worker on it."""

import itertools
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import redis

from cli.local.embedded import _version
from cli.local.free_ports import free_port
from cli.secret_files import Hosts, secret_files
from protocol import streams
from protocol.codec import decode_replies, encode_frame
from protocol.commands import Command, Deposit, PlaceOrder
from protocol.orders import OrderType, RejectReason, Side, TimeInForce
from protocol.replies import FundsReply, OpenOrdersQuery, OrderReply, OrdersReply, Query, Refused, Reply
from protocol.streams import COMMANDS_FIELD, QUERIES_FIELD
from protocol.units import AccountId, AssetUnits, PriceTicks, QuantityLots
from runtime.settings import PREFIX
from tests.deploy.rendered import ROOT
from tests.support.eventually import eventually
from tests.support.redis_programs import required
from tests.support.treasury import signed

DEADLINE_S: Final = 60


WINDOW: Final = 64
"""Orders that wait for an answer at a time."""


ACCOUNTS: Final = tuple(AccountId(1001 + number) for number in range(20))
"""So many that none of them reaches the largest number of open orders."""


WAITER: Final = "restart-test"


class AclFile(NamedTuple):
    """An ACL file, and who of it sends orders and who matches them: user and password."""

    text: str
    trader: str
    engine: str


def acl_files() -> dict[str, AclFile]:
    """Return every ACL file that is shipped, by where it is."""
    files = secret_files(b"s" * 32, Hosts())
    trader, engine = (_account(files[f"{user}/redis-url"]) for user in ("gateway", "engine"))
    development = (ROOT / "k8s" / "components" / "development-secrets" / "users.acl").read_text("utf-8")
    published = (f"{user}:development-only-{user}" for user in ("gateway", "engine"))
    return {
        "cli/redis_users.acl": AclFile(files["redis/users.acl"], trader, engine),
        "k8s/components/development-secrets/users.acl": AclFile(development, *published),
    }


def _account(url: str) -> str:
    return url.removeprefix("redis://").rpartition("@")[0]


ACL_FILES: Final = acl_files()


class Server:
    """A server with an ACL file, which writes everything that it acknowledges to disk, and rewrites its log
    often."""

    def __init__(self, program: Path, folder: Path, acl: AclFile) -> None:
        self.version = _version(program)
        self._folder = folder
        self._port = free_port()
        self._acl = acl
        self.write_acl(acl.text)
        self._command = [
            str(program),
            *("--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always", "--aclfile", str(folder / "users.acl")),
            *("--auto-aof-rewrite-percentage", "20", "--auto-aof-rewrite-min-size", "64kb"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def write_acl(self, text: str) -> None:
        if self.version < (7,):
            text = text.replace("%R~", "~")  # Redis 6.2 cannot tell reading from writing
        elif self.version < (7, 2):
            text = text.replace(
                "+client|setinfo", ""
            )  # it is not there yet, and an ACL file that names it is refused
        (self._folder / "users.acl").write_text(
            f"{text}\nuser test on >test allkeys allchannels +@all\n", "utf-8"
        )

    def start(self, *options: str) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*self._command, *options], stdout=log, stderr=log)
        eventually("the server", self._answers, DEADLINE_S)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE_S)
            self._process = None

    def url(self, account: str) -> str:
        return f"redis://{account}@127.0.0.1:{self._port}/0"

    def client(self) -> redis.Redis:
        """Return a connection that may do everything."""
        return redis.Redis.from_url(self.url("test:test"), protocol=2)

    def rewrites(self) -> int:
        """Return how often the server has rewritten its log, by its own log file."""
        said = (self._folder / "log").read_text("utf-8", "replace")
        return said.count("Background AOF rewrite finished successfully")

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


class Trader:
    """Sends orders that rest, and remembers which were acknowledged."""

    def __init__(self, url: str, folder: Path) -> None:
        """`folder` is the engine's data folder, where the treasury's key is."""
        self._folder = folder
        self._client = redis.Redis.from_url(url, protocol=2, socket_timeout=1, socket_connect_timeout=1)
        self._replies = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._numbers = itertools.count(1)
        self.acknowledged: set[str] = set()

    def deposit(self) -> None:
        for account_id in ACCOUNTS:
            while isinstance(reply := self._deposit(account_id), Refused):
                # The leader has not told the shard of its markets yet.
                assert reply.reason is RejectReason.UNKNOWN_ASSET
            assert isinstance(reply, FundsReply)

    def _deposit(self, account_id: AccountId) -> Reply:
        return self._ask(
            Deposit(next(self._numbers), WAITER, account_id, "USDT", AssetUnits(10**17), "first")
        )

    def trade(self, orders: int) -> None:
        """Place orders, several at a time, until so many more are acknowledged."""
        wanted = len(self.acknowledged) + orders
        waiting: deque[int] = deque()
        deadline = time.monotonic() + DEADLINE_S
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, (
                f"{len(self.acknowledged)} of {wanted} orders were acknowledged in time"
            )
            try:
                self._listen()
                while len(waiting) < WINDOW:
                    number = next(self._numbers)
                    self._append(_order(number))
                    waiting.append(number)
                for reply in self._heard(0.5):
                    if isinstance(reply, OrderReply):
                        self.acknowledged.add(reply.order.client_order_id)
                        if reply.request_id in waiting:
                            waiting.remove(reply.request_id)
            except redis.RedisError:
                # nobody knows what became of them; they count only once they are acknowledged
                waiting.clear()
                time.sleep(0.05)

    def append_one(self) -> str:
        """Append one order, wait for nothing, and return its client order id."""
        order = _order(next(self._numbers))
        self._append(order)
        return order.client_order_id

    def open_orders(self) -> set[str]:
        """Return the client order ids of what rests, by the shard."""
        found: set[str] = set()
        for account_id in ACCOUNTS:
            reply = self._ask(OpenOrdersQuery(next(self._numbers), WAITER, account_id))
            assert isinstance(reply, OrdersReply)
            found |= {order.client_order_id for order in reply.orders}
        return found

    def close(self) -> None:
        self._replies.close()
        self._client.close()

    def _ask(self, question: Command | Query) -> Reply:
        is_query = isinstance(question, OpenOrdersQuery)
        stream, field = (streams.queries, QUERIES_FIELD) if is_query else (streams.commands, COMMANDS_FIELD)
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                self._listen()
                self._client.xadd(stream(0), {field: encode_frame(self._as_sent(question))})
                for reply in self._heard(5):
                    if reply.request_id == question.request_id:
                        return reply
            except redis.RedisError:
                time.sleep(0.05)
        raise AssertionError(f"no answer to {question}")

    def _as_sent(self, question: Command | Query) -> Sequence[object]:
        return signed(self._folder, 0, [question]) if isinstance(question, Deposit) else [question]

    def _append(self, command: Command) -> None:
        self._client.xadd(streams.commands(0), {COMMANDS_FIELD: encode_frame([command])})

    def _listen(self) -> None:
        if not self._replies.subscribed:
            self._replies.subscribe(streams.replies(WAITER))

    def _heard(self, timeout_s: float) -> Iterator[Reply]:
        message = self._replies.get_message(timeout=timeout_s)
        while message is not None:
            yield from decode_replies(message["data"])
            message = self._replies.get_message(timeout=0)


def _order(number: int) -> PlaceOrder:
    """Return a LIMIT order far below the market: 0.001 BTC at 10,000 USDT."""
    price, quantity = PriceTicks(1_000_000), QuantityLots(100)
    account_id = ACCOUNTS[number % len(ACCOUNTS)]
    return PlaceOrder(
        *(number, WAITER, account_id, f"order-{number}", "BTCUSDT", Side.BUY),
        *(OrderType.LIMIT, TimeInForce.GTC, price, quantity),
    )


@contextmanager
def server_with_engine(
    program: Path, folder: Path, acl: AclFile, options: tuple[str, ...] = (), **settings: str
) -> Iterator[tuple[Server, Trader, subprocess.Popen[bytes]]]:
    """Run a server, an engine worker on it, and somebody who trades."""
    server = Server(program, folder, acl)
    try:
        server.start(*options)
        with engine_worker(folder, "engine", redis_url=server.url(acl.engine), **settings) as engine:
            trader = Trader(server.url(acl.trader), folder)
            try:
                yield server, trader, engine
            finally:
                trader.close()
    finally:
        server.kill()


@contextmanager
def engine_worker(folder: Path, log: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an engine worker, which writes to the file `log` in `folder`."""
    values = {
        "lost_tail_check_enabled": "false",  # there is no database to compare with
        "data_dir": str(folder),
        "snapshot_interval_s": "1",
        "development": "true",  # one of the files has passwords that are published
        **settings,
    }
    environment = {**os.environ, **{f"{PREFIX}{name.upper()}": value for name, value in values.items()}}
    with (folder / log).open("ab") as output:
        engine = subprocess.Popen(
            [sys.executable, "-m", "engine_worker.main"], env=environment, stdout=output, stderr=output
        )
    try:
        yield engine
    finally:
        engine.kill()
        engine.wait(DEADLINE_S)


def _program(programs: dict[str, Path], name: str) -> Path:
    family, _, version = name.partition(" ")
    required(programs, version)
    return next(
        path
        for found, path in programs.items()
        if found.startswith(family.lower()) and f" {version}." in found
    )
