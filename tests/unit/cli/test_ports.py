import socket

import pytest

from cli.ports import PortError, check_ports, free_port
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
    with pytest.raises(PortError, match=f"port {port} is wanted twice; set EXCHANGE_REST_PORT or EXCHANGE_REDIS_PORT"):
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
