"""`http`: signed orders over HTTP against a separate exchange: gateway, engine, feeds, persistence."""

import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg

from cli.local.free_ports import free_port
from cli.local.own_exchange import EXCHANGE, OwnExchange, own_environment, own_exchange
from client.blocking import request
from client.signing import signature
from lab.benchmarks import load_generators
from lab.benchmarks.report import Result
from lab.benchmarks.workload import OPEN_ORDERS_MAX, roomy_markets_file
from protocol import streams
from protocol.stream_id import StreamId
from runtime import redis_clients
from runtime.settings import Settings

ACCOUNTS = 16
START_S = 60
CATCH_UP_S = 120


class Target(msgspec.Struct):
    """A running exchange, and accounts on it as (API key, secret)."""

    exchange: OwnExchange
    accounts: list[tuple[str, bytes]]

    @property
    def settings(self) -> Settings:
        """The settings of the exchange."""
        return self.exchange.settings

    def process_id(self, name: str) -> int:
        """Return the process id of one of its processes.

        Raises:
            ProcessLookupError: it does not run at the moment; its number is then 0, which to a signal means
                one's own group.
        """
        pid = next((process.pid for process in self.exchange.processes() if process.name == name), 0)
        if not pid:
            raise ProcessLookupError(name)
        return pid


@contextmanager
def exchange_of_its_own(up: Sequence[str] = (*EXCHANGE, "up"), **others: str) -> Iterator[Target]:
    """Run an exchange on free ports with its data in a temporary folder.

    The market maker, the pages and the rate limits are off. `up` is the program that runs it, `others` are
    its own settings.
    """
    with tempfile.TemporaryDirectory(prefix="exchange-bench-") as folder:
        Path(folder).chmod(0o755)
        own = {
            "markets_file": str(roomy_markets_file(Path(folder))),
            "open_orders_max": str(OPEN_ORDERS_MAX),
            "rate_limits_enabled": "false",
            "mm_enabled": "false",
            "frontend_enabled": "false",
            "log_level": "warning",
            **others,
        }
        with own_exchange(own_environment(Path(folder), **own), up) as exchange:
            yield Target(exchange, [_account(exchange.url, number) for number in range(ACCOUNTS)])


def _account(url: str, number: int) -> tuple[str, bytes]:
    """Sign an account up, fund it, and return its key and secret."""
    person = {"email": f"bench{number}@example.com", "password": "correct horse battery staple"}
    request(f"{url}/api/v1/signup", person)
    token = request(f"{url}/api/v1/signin", person)["token"]
    for asset, amount in (("BTC", "10000"), ("ETH", "100000"), ("SOL", "1000000"), ("USDT", "10000000")):
        for _ in range(3):
            request(f"{url}/api/v1/faucet", {"asset": asset, "amount": amount}, token)
    key = request(f"{url}/api/v1/api-keys", {"label": "bench", "password": person["password"]}, token)
    return key["apiKey"], key["secret"].encode()


def http(target: Target, seconds: int, connections: list[int]) -> list[Result]:
    """Place orders, 49 % of which take a resting one, and measure against an echo server."""
    results = []
    for count in connections:
        echo_rate = _echo(count, max(2, seconds // 3))
        placed = load_generators.run(target.settings.rest_port, count, seconds, _order_maker(target))
        if set(placed.statuses) != {200}:
            raise RuntimeError(f"not every order was accepted: {dict(placed.statuses)}")
        behind_s = catch_up(target.settings)
        quantiles = [quantile * 1_000 for quantile in statistics.quantiles(placed.latencies, n=100)]
        results.append(
            Result(
                bench="http",
                what=f"POST /api/v3/order, signed, RESULT, 49 % takers, {count} connections, {seconds} s",
                unit="orders/s",
                runs=[len(placed.latencies) / placed.seconds],
                reference="raw ASGI echo on uvicorn",
                reference_runs=[echo_rate],
                notes=f"p50 {quantiles[49]:.2f} ms, p99 {quantiles[98]:.2f} ms; database in step "
                f"{behind_s:.1f} s after the last",
            )
        )
    return results


def _order_maker(target: Target) -> load_generators.RequestMaker:
    sign = signer(target)

    def make(connection: int, number: int) -> bytes:
        rests = number % 2 or number % 100 == 0
        kind = "side=SELL&timeInForce=GTC" if rests else "side=BUY&timeInForce=IOC"
        order = f"symbol=BTCUSDT&{kind}&type=LIMIT&quantity=0.001&price=100000.00&newOrderRespType=RESULT"
        return sign(connection + number, order)

    return make


def signer(target: Target) -> Callable[[int, str], bytes]:
    """Return what makes a signed request of an order's parameters, for the account of a number."""
    port = target.settings.rest_port
    heads = [
        (
            f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-MBX-APIKEY: {key}\r\nContent-Length: "
            "0\r\n\r\n".encode(),
            secret,
        )
        for key, secret in target.accounts
    ]

    def sign(account: int, order: str) -> bytes:
        head, secret = heads[account % len(heads)]
        query = f"{order}&timestamp={int(time.time() * 1_000)}".encode()
        return b"POST /api/v3/order?" + query + b"&signature=" + signature(secret, query).encode() + head

    return sign


def _echo(connections: int, seconds: int) -> float:
    """Return the requests per second of the echo server under the same load."""
    port = free_port()
    options = [
        "--port",
        str(port),
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--no-access-log",
        "--log-level",
        "error",
    ]
    server = subprocess.Popen([sys.executable, "-m", "uvicorn", "lab.benchmarks.echo:app", *options])
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        query = b"x" * 250
        request = b"POST /?" + query + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
        echoed = load_generators.run(port, connections, seconds, lambda _connection, _number: request)
        return len(echoed.latencies) / echoed.seconds
    finally:
        server.terminate()
        server.wait(START_S)


def catch_up(settings: Settings) -> float:
    """Return the seconds until the database has everything that the shard has said."""
    began = time.monotonic()
    with (
        redis_clients.client(settings.resolved_redis_url()) as client,
        psycopg.connect(settings.resolved_database_url(), autocommit=True) as database,
    ):
        information: dict[str, bytes] = client.xinfo_stream(streams.events(0))
        last = StreamId.parse(information["last-generated-id"])
        while time.monotonic() < began + CATCH_UP_S:
            row = database.execute("SELECT last_id FROM ingest WHERE shard = 0").fetchone()
            if row is not None and StreamId.parse(row[0]) >= last:
                return time.monotonic() - began
            time.sleep(0.02)
    raise TimeoutError("the database does not keep up; see `exchange logs persist-worker`")
