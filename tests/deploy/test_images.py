"""Builds the images with buildah and runs what the compose file says with podman, on bases that
TEST_PYTHON_IMAGE and its like name.

Bases: anything with Python and pip (TEST_PYTHON_IMAGE), Node and npm (TEST_NODE_IMAGE), nginx
(TEST_NGINX_IMAGE), Redis 7 or newer (TEST_REDIS_IMAGE), PostgreSQL with an entrypoint like the official
image's (TEST_DATABASE_IMAGE), HAProxy (TEST_PROXY_IMAGE).
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from frontend_server.pages import cache_control, content_type, file_of, security_headers
from tests.deploy.rendered import ROOT
from tests.deploy.topology import Topology, env_file, images_of, podman
from tests.support.api import Api, RefusedError, new_account
from tests.support.eventually import eventually

BASES = {f"{name}_IMAGE" for name in ("PYTHON", "NODE", "NGINX", "REDIS", "DATABASE", "PROXY")}
TAG = "test"

pytestmark = [
    pytest.mark.skipif(
        not shutil.which("podman") or not shutil.which("buildah"),
        reason="IMAGES NOT TESTED: install podman and buildah (Debian: apt install podman buildah runc)",
    ),
    pytest.mark.skipif(
        images_of().keys() < BASES,
        reason="IMAGES NOT TESTED: name bases that podman has in "
        + ", ".join(sorted(f"TEST_{name}" for name in BASES)),
    ),
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """Build both images; return what the compose file is to be filled in with."""
    bases = images_of()
    for image, context, needed in (
        ("localhost/exchange", ROOT, ("PYTHON_IMAGE",)),
        ("localhost/exchange-frontend", ROOT / "frontend", ("NODE_IMAGE", "NGINX_IMAGE")),
    ):
        arguments = [f"--build-arg={name}={bases[name]}" for name in needed]
        _build(*arguments, "--build-arg=VERSION=1.2.3", f"--tag={image}:{TAG}", str(context))
    return {
        **bases,
        "IMAGE": "localhost/exchange",
        "FRONTEND_IMAGE": "localhost/exchange-frontend",
        "TAG": TAG,
    }


def _build(*arguments: str) -> None:
    command = ["buildah", "build", "--layers", "--format=docker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert not done.returncode, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def exchange(variables: Mapping[str, str]) -> Iterator[Topology]:
    """What `docker compose up` runs, with a faucet, in networks of its own."""
    with _running({**variables, "FAUCET_ENABLED": "true", "DEVELOPMENT": "true"}, 38) as topology:
        yield topology


@contextmanager
def _running(variables: Mapping[str, str], network: int) -> Iterator[Topology]:
    topology = Topology(
        {
            **variables,
            "FRONT_SUBNET": f"10.239.{network}.0/24",
            "FRONT_RANGE": f"10.239.{network}.128/25",
            "PROXY_ADDRESS": f"10.239.{network}.10",
            "FRONTEND_ADDRESS": f"10.239.{network}.11",
        },
        without=frozenset({"prometheus", "grafana"}),
    )
    try:
        topology.start()
        yield topology
    finally:
        topology.stop()


def test_an_image_is_for_anybody_and_carries_no_server(variables: Mapping[str, str]) -> None:
    image = f"{variables['IMAGE']}:{TAG}"
    inspected = json.loads(podman("image", "inspect", image))[0]
    assert inspected["Config"]["User"] == "10001:10001"
    assert inspected["Config"]["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert inspected["Healthcheck"]["Test"][0] == "CMD"
    found = podman(
        "run",
        "--rm",
        image,
        "find",
        "/opt",
        "-name",
        "redis-server",
        "-o",
        "-name",
        "initdb",
        "-o",
        "-name",
        "uv",
    )
    assert not found
    assert podman("run", "--rm", image, "exchange", "--version").startswith("exchange, version ")


def test_orders_go_all_the_way_and_processes_may_die(exchange: Topology) -> None:
    url = f"http://{exchange.address('proxy', 'front')}:8000"
    buyer, seller = new_account(url, USDT="1000000"), new_account(url, BTC="10")
    with connect(f"ws://{exchange.address('proxy', 'front')}:8001/ws/btcusdt@trade") as stream:
        seller.order("BTCUSDT", "SELL", "LIMIT", price="50000", quantity="1")
        assert buyer.order("BTCUSDT", "BUY", "MARKET", quantity="0.5")["status"] == "FILLED"
        assert json.loads(stream.recv(10))["q"] == "0.50000000"
    assert eventually(
        "the trade is in the database", lambda: Api(url, buyer.key).historical_trades("BTCUSDT")
    )
    assert buyer.get("/api/v3/klines", symbol="BTCUSDT", interval="1m")[-1][5] == "0.50000000"

    podman("kill", *exchange.containers("engine-0"))
    assert buyer.order("BTCUSDT", "BUY", "MARKET", quantity="0.25")["status"] == "FILLED"
    podman("kill", exchange.containers("gateway")[0])
    for _ in range(10):
        assert buyer.get("/api/v3/ping") == {}
    assert buyer.balances()["BTC"][0] > 0
    assert _denied(exchange) == []


def _denied(exchange: Topology) -> list[str]:
    """Return what Redis has refused somebody."""
    script = (
        "from runtime import redis_clients, settings; client = "
        'redis_clients.client(settings.load_settings().redis_url);print(*[f\'{each["username"]} '
        "{each[\"object\"]}' for each in client.acl_log()], sep='\\n')"
    )
    return exchange.run("tools", "python", "-c", script).splitlines()


def test_the_operator_sees_every_shard_led_and_followed(exchange: Topology) -> None:
    reports = json.loads(exchange.run("tools", "exchange", "shards", "--json"))
    assert [report["shard"] for report in reports] == [0, 1, 2]
    assert all(report["leader"] for report in reports)


def test_pages_are_as_the_frontend_server_serves_them(exchange: Topology) -> None:
    with httpx.Client(base_url=f"http://{exchange.address('frontend', 'front')}:3000") as http:
        assert http.get("/config.json").json() == {"wsUrl": "ws://localhost:8001"}
        assert http.get("/health").json()["state"] == "ready"
        script = re.search(r'src="(/_next/static/[^"]+\.js)"', http.get("/").text)
        assert script
        for path in (
            "/",
            "/trade",
            "/trade/BTCUSDT",
            script[1],
            "/trade/a/b",
            "/.stamp",
            "/no/such",
            "/config.json/x",
        ):
            response, file = http.get(path), file_of(path)
            served = _in_image(exchange, str(file)) if file else b""
            assert (response.status_code == 200) == bool(served), path
            for name, value in security_headers("ws://localhost:8001").items():
                assert response.headers[name] == value
            if file and served:
                assert response.content == served
                # nginx's own list of types still has the older name.
                kind = response.headers["Content-Type"].replace("application/javascript", "text/javascript")
                assert kind.split(";")[0] in content_type(file)
                assert response.headers["Cache-Control"] == cache_control(path)


def _in_image(exchange: Topology, file: str) -> bytes:
    path = f"/usr/share/exchange-frontend/{file}"
    (container,) = exchange.containers("frontend")
    return subprocess.run(["podman", "exec", container, "cat", path], capture_output=True).stdout


def test_a_frontend_that_is_told_nonsense_does_not_start(variables: Mapping[str, str]) -> None:
    for value in ('http://x";alert(1)', "ftp://x", "http://x y"):
        setting = f"EXCHANGE_FRONTEND_API_URL={value}"
        image = f"{variables['FRONTEND_IMAGE']}:{TAG}"
        done = subprocess.run(
            ["podman", "run", "--rm", "--env", setting, image], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert "EXCHANGE_FRONTEND_API_URL" in done.stderr


def test_orders_survive_the_master_under_sentinel(variables: Mapping[str, str]) -> None:
    with _running(
        {**variables, **env_file("sentinel.env"), "FAUCET_ENABLED": "true", "DEVELOPMENT": "true"}, 39
    ) as topology:
        account = new_account(f"http://{topology.address('proxy', 'front')}:8000", USDT="1000000")
        order = account.order("BTCUSDT", "BUY", "LIMIT", price="100", quantity="1")
        podman("kill", *topology.containers("redis"))
        eventually("the replica takes over", lambda: _master(topology) == "redis-replica", timeout_s=60)
        # An order is acknowledged when two have it, so when the old master is back.
        podman("start", *topology.containers("redis"))
        found = eventually(
            "the order is still there", lambda: _order(account, order["orderId"]), timeout_s=120
        )
        assert found["status"] == "NEW"
        later = eventually("orders are taken again", lambda: _order(account, _place(account)), timeout_s=60)
        assert later["orderId"] > found["orderId"]
        assert _denied(topology) == []


def _master(topology: Topology) -> str:
    (sentinel,) = topology.containers("redis-sentinel-1")
    (found,) = re.findall(
        r"^sentinel monitor \S+ (\S+)", podman("exec", sentinel, "cat", "/data/sentinel.conf"), re.MULTILINE
    )
    return str(found)


def _place(account: Api) -> int:
    try:
        return int(account.order("BTCUSDT", "BUY", "LIMIT", price="100", quantity="1")["orderId"])
    except (httpx.HTTPError, RefusedError):
        return 0


def _order(account: Api, order_id: int) -> dict[str, Any]:
    try:
        return dict(account.signed("GET", "/api/v3/order", symbol="BTCUSDT", orderId=order_id))
    except (httpx.HTTPError, RefusedError):
        return {}
