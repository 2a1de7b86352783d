"""What stands in front of gateways and edges waits for bodies, counts networks, and has a deadline for
everything a client does."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from runtime.settings import Settings
from tests.deploy.rendered import ROOT, Object, of_kind, rendered
from ws_edge.main import PING_INTERVAL_S

HAPROXY: Final = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text("utf-8")
DEADLINES: Final = (
    "connect",
    "queue",
    "http-request",
    "http-keep-alive",
    "client",
    "server",
    "tunnel",
    "check",
)
NGINX: Final = "nginx.ingress.kubernetes.io/"


def sections(text: str) -> dict[str, list[str]]:
    """Return the lines of each section of a haproxy.cfg, without comments."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line[0].isspace():
            lines = found.setdefault(line.strip(), [])
        else:
            lines.append(line.strip())
    return found


def seconds(text: str) -> float:
    """Return a duration of a haproxy.cfg, or of nginx."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}[unit]


def gaps_of_haproxy(text: str) -> list[str]:
    """Return what a haproxy.cfg lets through that it should not."""
    found, gaps, settings = sections(text), [], Settings()
    timeouts = {
        line.split()[1]: seconds(line.split()[2]) for line in found["defaults"] if line.startswith("timeout")
    }
    gaps += [f"no timeout {name}" for name in DEADLINES if name not in timeouts]
    if timeouts.get("http-request", 0) * 1000 > settings.request_timeout_ms:
        gaps.append("requests may take longer than a gateway lets them")
    if timeouts.get("http-keep-alive", 0) > settings.idle_timeout_s:
        gaps.append("connections may be idle for longer than a gateway lets them")
    if timeouts.get("client", 0) <= PING_INTERVAL_S:
        gaps.append("WebSockets are closed between two pings")
    for frontend, largest in (
        ("rest", settings.connections_per_address_max),
        ("streams", settings.ws_connections_per_address_max),
    ):
        rules = found[f"frontend {frontend}"]
        tracked = [
            line
            for line in rules
            if line.startswith("tcp-request connection track-sc0 src,ipmask(32,64) table")
        ]
        if not tracked:
            gaps.append(f"{frontend}: networks are not counted")
            continue
        (table,) = found[f"backend {tracked[0].split()[-1]}"]
        for count in ("conn_cur", "conn_rate"):
            limits = [line for line in rules if f"sc0_{count} gt" in line and "connection reject" in line]
            if not limits or count not in table or rules.index(limits[0]) < rules.index(tracked[0]):
                gaps.append(f"{frontend}: no limit of {count}")
            elif count == "conn_cur" and int(limits[0].split()[-2]) < largest:
                gaps.append(f"{frontend}: fewer connections than the process's own limit")
        if frontend == "rest":
            if "option http-buffer-request" not in rules:
                gaps.append("bodies are not waited for")
            rates = [line for line in rules if "sc0_http_req_rate gt" in line and "deny_status 429" in line]
            if not rates or "http_req_rate(60s)" not in table:
                gaps.append("no limit of requests")
            elif int(rates[0].split()[-2]) * 5 < settings.raw_requests_per_5m:
                gaps.append("fewer requests than the gateway's own limit")
            bodies = [line for line in rules if "req.body_size gt" in line and "deny_status 413" in line]
            if not bodies or int(bodies[0].split()[-2]) != settings.body_bytes_max:
                gaps.append("no limit of bodies, or not the gateway's")
    sizes = {line.split()[0]: int(line.split()[1]) for line in found["global"] if line.startswith("tune.")}
    if sizes.get("tune.bufsize", 0) - sizes.get("tune.maxrewrite", 0) < settings.head_bytes_max:
        gaps.append("heads that a gateway takes do not fit")
    return gaps


def test_haproxy_leaves_no_gap() -> None:
    assert gaps_of_haproxy(HAPROXY) == []


@pytest.mark.parametrize(
    ("says", "old", "new"),
    [
        ("no timeout http-request", "timeout http-request 10s", ""),
        (
            "requests may take longer than a gateway lets them",
            "timeout http-request 10s",
            "timeout http-request 60s",
        ),
        ("WebSockets are closed between two pings", "timeout client 75s", "timeout client 15s"),
        ("bodies are not waited for", "option http-buffer-request", ""),
        ("rest: networks are not counted", "track-sc0 src,ipmask(32,64) table networks-rest", ""),
        ("rest: no limit of conn_cur", "sc0_conn_cur gt 2000", "sc1_conn_cur gt 2000"),
        (
            "rest: fewer connections than the process's own limit",
            "sc0_conn_cur gt 2000",
            "sc0_conn_cur gt 20",
        ),
        ("no limit of requests", "http_req_rate(60s)", "http_err_rate(60s)"),
        ("fewer requests than the gateway's own limit", "gt 60000", "gt 600"),
        ("no limit of bodies, or not the gateway's", "gt 65536", "gt 65535"),
        ("heads that a gateway takes do not fit", "tune.bufsize 18432", "tune.bufsize 16384"),
    ],
)
def test_a_gap_in_haproxy_is_found(says: str, old: str, new: str) -> None:
    assert old in HAPROXY
    assert says in gaps_of_haproxy(HAPROXY.replace(old, new, 1))


def annotations(objects: Sequence[Object]) -> dict[str, str]:
    """Return the Ingress's annotations."""
    (ingress,) = of_kind(objects, "Ingress")
    found: dict[str, str] = ingress["metadata"].get("annotations", {})
    return found


def gaps_of_ingress(objects: Sequence[Object]) -> list[str]:
    """Return what the Ingress lets through that it should not."""
    said, gaps, settings = annotations(objects), [], Settings()
    if said.get(NGINX + "proxy-request-buffering") != "on":
        gaps.append("bodies are not waited for")
    if said.get(NGINX + "proxy-body-size") != f"{settings.body_bytes_max // 1024}k":
        gaps.append("no limit of bodies, or not the gateway's")
    if int(said.get(NGINX + "limit-connections", "0")) < settings.connections_per_address_max:
        gaps.append("no limit of connections, or one below the gateway's")
    if int(said.get(NGINX + "limit-rps", "0")) * 300 < settings.raw_requests_per_5m:
        gaps.append("no limit of requests, or one below the gateway's")
    gaps += [
        f"no {name}, or one that closes WebSockets between two pings"
        for name in ("proxy-read-timeout", "proxy-send-timeout")
        if not PING_INTERVAL_S < seconds(said.get(NGINX + name, "0")) <= settings.idle_timeout_s
    ]
    return gaps


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_the_ingress_leaves_no_gap(overlay: str) -> None:
    assert gaps_of_ingress(rendered(overlay)) == []


def test_the_certificate_is_still_asked_for() -> None:
    assert annotations(rendered("production"))["cert-manager.io/cluster-issuer"] == "letsencrypt"


@pytest.mark.parametrize(
    ("says", "break_it"),
    [
        ("bodies are not waited for", lambda said: said.pop(NGINX + "proxy-request-buffering")),
        (
            "no limit of bodies, or not the gateway's",
            lambda said: said.update({NGINX + "proxy-body-size": "1m"}),
        ),
        (
            "no limit of connections, or one below the gateway's",
            lambda said: said.pop(NGINX + "limit-connections"),
        ),
        (
            "no limit of requests, or one below the gateway's",
            lambda said: said.update({NGINX + "limit-rps": "20"}),
        ),
    ],
)
def test_a_gap_in_the_ingress_is_found(says: str, break_it: Callable[[dict[str, Any]], object]) -> None:
    objects = rendered("local")
    break_it(annotations(objects))
    assert says in gaps_of_ingress(objects)
