import socket
import subprocess
import sys

import pytest

from cli.local import free_ports as ports
from cli.local.free_ports import PortError, check_ports, free_port, free_ports
from runtime.settings import Settings


def settings(**ports: int) -> Settings:
    return Settings(
        up_metrics_port=0,
        rest_port=ports.get("rest", free_port()),
        ws_port=free_port(),
        frontend_port=free_port(),
        redis_port=ports.get("redis", free_port()),
        postgres_port=ports.get("postgres", free_port()),
    )


def test_free_ports_are_fine() -> None:
    check_ports(settings())


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as rest, socket.create_server(("127.0.0.1", 0)) as redis:
        taken = {"rest": rest.getsockname()[1], "redis": redis.getsockname()[1]}
        with pytest.raises(PortError) as caught:
            check_ports(settings(**taken))
    assert str(caught.value).splitlines() == [
        f"port {taken['rest']} is taken; set EXCHANGE_REST_PORT",
        f"port {taken['redis']} is taken; set EXCHANGE_REDIS_PORT",
    ]


def test_a_port_that_two_settings_name_is_a_mistake() -> None:
    port = free_port()
    with pytest.raises(
        PortError, match=f"port {port} is wanted twice; set EXCHANGE_REST_PORT or EXCHANGE_REDIS_PORT"
    ):
        check_ports(settings(rest=port, redis=port))


def test_ports_of_external_servers_do_not_matter() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check_ports(
            Settings(
                rest_port=free_port(),
                ws_port=free_port(),
                frontend_enabled=False,
                up_metrics_port=0,
                redis_port=port,
                redis_url="redis://elsewhere",
                database_url="postgresql:///x",
            )
        )


def test_nobody_is_told_of_a_port_that_another_process_was_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question and the listening there is time: two tests, or a bench beside a chaos run, ask at
    once."""
    some = range(31_000, 31_040)
    monkeypatch.setattr(ports, "_QUIET_PORTS", some)
    ask = (
        "import sys; from cli.local import free_ports as ports; ports._QUIET_PORTS = range(31_000, 31_040);"
        "print(*(ports.free_port() for _ in range(15)), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", ask], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        theirs = [int(port) for port in other.stdout.readline().split()]
        ours = [free_port() for _ in range(15)]
        other.kill()
    assert len({*theirs, *ours}) == 30
    assert {*theirs, *ours} <= {*some}


def test_a_row_of_ports_is_promised_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_QUIET_PORTS", range(20_000, 20_100))
    rows = [free_ports(5) for _ in range(5)]
    assert len({first + number for first in rows for number in range(5)}) == 25


def test_promises_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_QUIET_PORTS", [31_100])
    monkeypatch.setattr(ports, "_PROMISED_S", 0)
    assert [free_port(), free_port()] == [31_100, 31_100]
