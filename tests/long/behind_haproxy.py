"""deploy/haproxy/haproxy.cfg before a running exchange: attackers are stopped there, others are served, each
counts as its own network.

Run by `make test-long` where there is HAProxy (Debian: apt install haproxy); skipped elsewhere.
"""

import asyncio
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import psutil
import pytest
from websockets.sync.client import connect

from cli.local.free_ports import free_port, free_ports
from tests.support.data_dirs import METRICS_PORTS, data_dir_of_its_own
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange, running_exchange

CONFIGURATION: Final = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
ATTACKER, OTHER = "127.0.5.1", "127.0.5.2"
BOMB: Final = b"a=" + b"%41" * 349_000
HELD: Final = 200
LONGER_THAN_DEADLINES_S: Final = 30
GROWTH_BYTES_MAX: Final = 50_000_000
"""600 bodies of 1 MB took 600 MB once."""
CONNECTIONS_MAX: Final = 2_000

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        shutil.which("haproxy") is None, reason="NOT TESTED: install HAProxy (Debian: apt install haproxy)"
    ),
]


class Proxy(NamedTuple):
    """A proxy before an exchange."""

    rest: int
    streams: int
    exchange: RunningExchange

    def rss(self) -> int:
        """Return the resident memory of gateway and edge, in bytes."""
        pids = [each.pid for each in self.exchange.processes() if each.name in ("gateway", "ws-edge")]
        return sum(psutil.Process(pid).memory_info().rss for pid in pids)


def configuration(rest: int, streams: int, status: int, exchange: RunningExchange) -> str:
    """Return the configuration with the ports of this machine; whether processes are ready is not asked."""
    text = CONFIGURATION.read_text("utf-8")
    for pattern, there in (
        (r"bind :8000", f"bind 127.0.0.1:{rest}"),
        (r"bind :8001", f"bind 127.0.0.1:{streams}"),
        (r"bind :9100", f"bind 127.0.0.1:{status}"),
        (
            r"server-template gateway 1-16 \S+",
            f"server gateway 127.0.0.1:{exchange.settings.rest_port} no-check",
        ),
        (
            r"server-template ws-edge 1-16 \S+",
            f"server ws-edge 127.0.0.1:{exchange.settings.ws_port} no-check",
        ),
        (r"fd-hard-limit \d+", "fd-hard-limit 20000"),
    ):
        text, count = re.subn(pattern, there, text)
        assert count == 1, pattern
    return text


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = {
        "trusted_proxies": "127.0.0.1",
        "mm_enabled": "false",
        "up_metrics_port": str(free_ports(METRICS_PORTS)),
    }
    with (
        data_dir_of_its_own() as folder,
        running_exchange(folder, request_weight_per_minute="6000", **settings) as exchange,
    ):
        rest, streams, status = free_port(), free_port(), free_port()
        file = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
        file.write_text(configuration(rest, streams, status, exchange))
        process = subprocess.Popen(["haproxy", "-f", str(file), "-db"], stdout=subprocess.DEVNULL)
        try:
            eventually("it answers", lambda: answers(rest))
            yield Proxy(rest, streams, exchange)
        finally:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/v3/ping").is_success
    except httpx.TransportError:
        return False


def client_of(address: str, port: int) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(local_address=address), timeout=60
    )


def test_bombs_do_not_pass(proxy: Proxy) -> None:
    with client_of(ATTACKER, proxy.rest) as attacker:
        answer = attacker.post(
            "/api/v3/order", content=BOMB, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
    assert answer.status_code == 413
    assert "x-request-id" not in answer.headers, "a gateway has answered"


def test_headers_without_end_do_not_pass(proxy: Proxy) -> None:
    before = proxy.rss()
    head, header = b"GET /api/v3/ping HTTP/1.1\r\n", b"a: b\r\n"
    assert asyncio.run(held(proxy.rest, 1, head + header * 4_000)) == {"400": 1}
    # Whoever goes on sending may lose the connection before the answer is read.
    assert asyncio.run(held(proxy.rest, 1, head + header * 800_000)).keys() <= {"400", "closed"}
    assert proxy.rss() - before < GROWTH_BYTES_MAX


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n",
        b"POST /api/v3/order HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"a" * 10_000,
        b"POST /api/v3/order HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"a" * 50_000,
    ],
    ids=("silent", "half a head", "half a body", "most of a body"),
)
def test_who_does_not_go_on_is_sent_away(proxy: Proxy, beginning: bytes) -> None:
    before = proxy.rss()

    async def attack() -> Counter[str]:
        holding = asyncio.create_task(held(proxy.rest, HELD, beginning, drip=b"a"))
        with client_of(OTHER, proxy.rest) as other:
            for _ in range(10):
                assert (await asyncio.to_thread(other.get, "/api/v3/ping")).is_success
                await asyncio.sleep(0.2)
        return await holding

    said = asyncio.run(attack())
    assert "still open" not in said, said
    assert proxy.rss() - before < GROWTH_BYTES_MAX


def test_one_network_holds_so_many_connections(proxy: Proxy) -> None:
    async def attack() -> tuple[int, bool]:
        opened = await asyncio.gather(
            *(
                asyncio.open_connection("127.0.0.1", proxy.rest, local_addr=(ATTACKER, 0))
                for _ in range(CONNECTIONS_MAX + 200)
            ),
            return_exceptions=True,
        )
        pairs = [each for each in opened if not isinstance(each, BaseException)]
        # What was rejected is closed without a word; what was taken waits for a request.
        ended = await asyncio.gather(*(is_closed(reader) for reader, _ in pairs))
        with client_of(OTHER, proxy.rest) as other:
            served = (await asyncio.to_thread(other.get, "/api/v3/ping")).is_success
        for _, writer in pairs:
            writer.transport.abort()
        return len(pairs) - sum(ended), served

    kept, served = asyncio.run(attack())
    assert kept <= CONNECTIONS_MAX
    assert kept > CONNECTIONS_MAX / 2, "the limit is not what the file says"
    assert served


def test_each_counts_as_the_network_that_it_is(proxy: Proxy) -> None:
    with client_of("127.0.5.3", proxy.rest) as one, client_of("127.0.5.4", proxy.rest) as two:
        for _ in range(50):
            one.get("/api/v3/depth", params={"symbol": "BTCUSDT", "limit": 5000})
        assert one.get("/api/v3/ping").status_code in (418, 429)
        answer = two.get("/api/v3/ping")
        assert (answer.status_code, answer.headers["X-MBX-USED-WEIGHT-1M"]) == (200, "1")
    with connect(
        f"ws://127.0.0.1:{proxy.streams}/ws-api/v3", proxy=None, source_address=("127.0.5.5", 0)
    ) as api:
        api.send('{"id": 1, "method": "ping"}')
        assert '"count":3' in str(api.recv()), "a handshake weighs 2"


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(1):
            return not await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True


async def held(port: int, count: int, beginning: bytes, drip: bytes = b"") -> Counter[str]:
    """Hold connections that begin with so much, and then drip; return what became of each."""
    said: Counter[str] = Counter()

    async def hold() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(ATTACKER, 0))
        deadline = time.monotonic() + LONGER_THAN_DEADLINES_S
        answered = asyncio.create_task(reader.read())
        try:
            writer.write(beginning)
            while not answered.done() and time.monotonic() < deadline:
                await asyncio.wait([answered], timeout=3)
                if beginning:
                    writer.write(drip)
            text = answered.result() if answered.done() else None
            said["still open" if text is None else text.split(b" ", 2)[1].decode() if text else "closed"] += 1
        except OSError:
            said["closed"] += 1
        finally:
            answered.cancel()
            writer.transport.abort()

    await asyncio.gather(*(hold() for _ in range(count)))
    return said
