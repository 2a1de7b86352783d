"""Monitoring of a process: metrics for Prometheus, probes, and a heartbeat for `exchange status`.

Metrics are declared in the modules that count, with `prometheus_client` itself. Counting is an addition in
memory; nothing here delays an order. A thread answers scrapes; it yields the interpreter after each metric,
so that an order waits for one metric at most.
"""

import hmac
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import msgspec
import prometheus_client
import redis
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from protocol import streams
from protocol.decoding import json_decoder
from protocol.release import this_release
from runtime import redis_clients
from runtime.agreement import Agreement
from runtime.probes import Probes, Reach
from runtime.redis_reserve import write_reserved
from runtime.settings import PREFIX, Settings, SettingsError
from runtime.unique_names import own_instance

HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_TTL_S = 10
_CLIENT_S: Final = 5
"""Timeout for a client of the metrics to send its request."""

_log = structlog.get_logger()

# They are half of the output, and nothing uses them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library lacks the annotation
_build = prometheus_client.Gauge(
    "exchange_build_info", "1: this process, and the version that it runs", ["process", "version"]
)
_ready = prometheus_client.Gauge("exchange_ready", "1: the process is ready, as /readyz says", ["process"])
_redis_reachable = prometheus_client.Gauge(
    "exchange_redis_reachable", "1: Redis answered this process when it was asked last", ["process"]
)


class Health(msgspec.Struct, frozen=True):
    """The last heartbeat of a process: identity, time (s since the epoch), and lag (ms; None: no backlog).

    It also has the newest numbers that the process reads (protocol/release.py); 0: its release does not
    report them.
    """

    pid: int
    time: float
    lag_ms: int | None = None
    reads_format: int = 0
    reads_kinds: int = 0
    reads_rules: int = 0
    core: str = ""
    """Which core an engine worker runs; empty: it is none, or its release does not report it."""


def health_keys(process: str) -> tuple[str, str]:
    """Return the keys of a process's heartbeat: by its name, and by its name and instance."""
    return streams.health(process), streams.instance_health(process, own_instance())


def health_now(lag_ms: int | None, core: str = "") -> Health:
    """Return this process's current heartbeat."""
    return Health(os.getpid(), time.time(), lag_ms, *this_release(), core)


def serve_metrics(settings: Settings, process: str, probes: Probes, *, is_port_shared: bool = False) -> None:
    """Serve `/metrics`, `/livez` and `/readyz` of this process over HTTP, from a thread, if it has a port.

    `is_port_shared`: another process with the same flag may listen on the port at the same time.

    Raises:
        SettingsError: the port is in use, or the address is not this machine's.
    """
    version = metadata.version("exchange")
    _build.labels(process, version).set(1)
    _ready.labels(process).set_function(lambda: not probes.why_not_ready())
    if not settings.metrics_port:
        return
    try:
        address = settings.metrics_host, settings.metrics_port
        server = _Server(
            address, metrics_application(probes, settings.metrics_password), shared=is_port_shared
        )
    except OSError as error:
        raise SettingsError(
            f"{PREFIX}METRICS_PORT: cannot listen on {settings.metrics_host}:{settings.metrics_port}: "
            f"{error.strerror}"
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def metrics_application(probes: Probes, password: str = "") -> WSGIApplication:
    """Return the WSGI application of metrics, which may require a password, and of probes, which do not."""
    expected_header = f"Bearer {password}".encode() if password else b""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Yielding())
    metrics: WSGIApplication = prometheus_client.make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            header = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
            if expected_header and not hmac.compare_digest(header, expected_header):
                headers = [("Content-Type", "text/plain; charset=utf-8"), ("WWW-Authenticate", "Bearer")]
                start_response("401 Unauthorized", headers)
                return [b"Metrics require the password.\n"]
            return metrics(environ, start_response)
        if path == "/livez":
            reason = probes.why_not_alive()
            reasons = {"process": reason} if reason is not None else {}
        elif path == "/readyz":
            reasons = probes.why_not_ready()
        else:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"There are /metrics, /livez and /readyz.\n"]
        status = "503 Service Unavailable" if reasons else "200 OK"
        start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [msgspec.json.encode({"ok": not reasons, "reasons": reasons}) + b"\n"]

    return answer


def reach_redis(probes: Probes, process: str, *, once: bool = False) -> Reach:
    """Return a `Reach` that records whether Redis answers the process; it is ready only while Redis does."""
    reach = Reach("Redis")
    probes.ready_when("redis", reach.why_not, once=once)
    _redis_reachable.labels(process).set_function(lambda: reach.why_not() is None)
    return reach


class _Yielding(Collector):
    """All metrics of this process; the interpreter is yielded after each one."""

    def collect(self) -> Iterator[Metric]:
        for metric in prometheus_client.REGISTRY.collect():
            yield metric
            time.sleep(0)


class _Handler(WSGIRequestHandler):
    """Logs nothing: probes come every few seconds."""

    timeout = _CLIENT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - it is called so there
        """Log nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per request, so that a slow client does not delay others."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], application: WSGIApplication, *, shared: bool) -> None:
        """Serve `application`; `shared`: another process may have the same port."""
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.allow_reuse_port = shared
        super().__init__(address, _Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind without a name lookup of this machine, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class Heartbeat:
    """Writes `health:NAME` every second from its own thread, so that a busy process still has a heartbeat.

    `lag_ms` is called for the milliseconds that the process is behind, if it can have a backlog.
    """

    def __init__(self, settings: Settings, process: str, lag_ms: Callable[[], int] | None = None) -> None:
        self._keys = health_keys(process)
        self._redis = redis_clients.client_for(
            settings.resolved_redis_url(), self._keys[0], socket_timeout=float(HEARTBEAT_TTL_S)
        )
        self._agreement = Agreement(settings, process)
        self._lag_ms = lag_ms
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def stop(self) -> None:
        """Stop writing, and announce that the process has stopped."""
        self._stopped.set()
        self._thread.join(HEARTBEAT_INTERVAL_S)
        try:
            self._redis.delete(*self._keys)
        except redis.RedisError as error:
            _log.debug("heartbeat not removed", error=str(error))
        self._redis.close()
        self._agreement.leave()

    def _beat(self) -> None:
        while not self._stopped.is_set():
            health = health_now(self._lag_ms() if self._lag_ms else None)
            try:
                for key in self._keys:
                    write_reserved(
                        self._redis, "SET", key, msgspec.json.encode(health), "EX", HEARTBEAT_TTL_S
                    )
            except redis.RedisError as error:
                _log.debug("heartbeat not written", error=str(error))
            self._agreement.renew_or_end()
            self._stopped.wait(HEARTBEAT_INTERVAL_S)


_decode_health = json_decoder(Health)


def decode_health(payload: Any) -> Health | None:
    """Return the heartbeat in `payload`; None: there is none, or it is undecodable."""
    try:
        return _decode_health(payload) if isinstance(payload, bytes) else None
    except msgspec.MsgspecError:
        return None


def read_health(client: redis.Redis, process: str) -> Health | None:
    """Return a process's last heartbeat.

    None: there was none for `HEARTBEAT_TTL_S`, or it is undecodable.
    """
    return decode_health(client.get(streams.health(process)))
