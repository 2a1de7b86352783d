"""Metrics are for this machine unless said otherwise, and for whoever shows the password where there is
one.
"""

import http.client

import psutil
import pytest

from cli.local.free_ports import free_port
from runtime.metrics import serve_metrics
from runtime.probes import Probes
from runtime.settings import Settings

PASSWORD = "long enough"


def _asked(port: int, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("settings", "address"),
    [({}, "127.0.0.1"), ({"host": "0.0.0.0"}, "127.0.0.1"), ({"metrics_host": "0.0.0.0"}, "0.0.0.0")],
)
def test_they_listen_where_their_own_setting_says(settings: dict[str, str], address: str) -> None:
    port = free_port()
    serve_metrics(Settings(metrics_port=port, **settings), "test", Probes())  # type: ignore[arg-type]
    listening = {
        each.laddr.ip
        for each in psutil.Process().net_connections()
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    }
    assert listening == {address}


def test_metrics_want_the_password_and_probes_do_not() -> None:
    port, probes = free_port(), Probes()
    probes.turned()
    serve_metrics(Settings(metrics_port=port, metrics_password=PASSWORD), "test", probes)
    assert _asked(port, "/metrics") == 401
    for shown in ("Bearer wrong", "Bearer ", f"bearer {PASSWORD}x", PASSWORD, "Bearer é"):
        assert _asked(port, "/metrics", Authorization=shown) == 401, shown
    assert _asked(port, "/metrics", Authorization=f"Bearer {PASSWORD}") == 200
    assert [_asked(port, path) for path in ("/livez", "/readyz")] == [200, 200]


def test_without_a_password_nothing_is_asked() -> None:
    port = free_port()
    serve_metrics(Settings(metrics_port=port), "test", Probes())
    assert _asked(port, "/metrics") == 200
