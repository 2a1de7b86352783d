"""Serves the frontend. `python -m frontend_server.main`."""

import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog

from frontend_server.build import BUILT, Build, BuildState
from frontend_server.pages import cache_control, content_type, file_of, security_headers
from runtime.lifecycle import stop_flag
from runtime.log import configure_logs
from runtime.settings import PREFIX, Settings, SettingsError, load_settings

PROCESS: Final = "frontend"
_IDLE_S: Final = 30
_WAITING: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width"><title>Exchange</title>
<body style="background:#0b0d12;color:#b9c0cc;font:16px system-ui;display:grid;place-items:center;min-height:90vh;text-align:center">
<p>{}</p></body></html>"""

_log = structlog.get_logger()


class FrontendServer(ThreadingHTTPServer):
    """Serves the built files; until they are there, it says how far they are."""

    daemon_threads = True

    def __init__(self, settings: Settings, build: Build) -> None:
        if ":" in settings.host:
            self.address_family = socket.AF_INET6
        super().__init__((settings.host, settings.frontend_port), _Handler)
        rest_url = settings.frontend_rest_url or settings.rest_url()
        ws_url = settings.frontend_ws_url or settings.ws_url()
        self.build = build
        self.config = msgspec.json.encode({"restUrl": rest_url, "wsUrl": ws_url})
        self.page_headers = security_headers(rest_url, ws_url)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "frontend", ""
    timeout = _IDLE_S
    server: FrontendServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/config.json":
            self._answer(HTTPStatus.OK, "application/json", self.server.config, "no-store")
        elif path == "/health":
            health = {"state": self.server.build.state, "reason": self.server.build.reason}
            self._answer(HTTPStatus.OK, "application/json", msgspec.json.encode(health), "no-store")
        elif self.server.build.state is not BuildState.READY:
            is_building = self.server.build.state is BuildState.BUILDING
            text = "The frontend is being built …" if is_building else "There is no frontend; its log says why."
            page = _WAITING.format(text).encode()
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/html; charset=utf-8", page, "no-store")
        else:
            self._answer_file(path)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer_file(self, path: str) -> None:
        file = file_of(path)
        try:
            if file is None:
                raise FileNotFoundError(path)
            body = (BUILT / file).read_bytes()
        except OSError:
            body = (BUILT / "404.html").read_bytes()
            self._answer(HTTPStatus.NOT_FOUND, "text/html; charset=utf-8", body, "no-cache")
            return
        self._answer(HTTPStatus.OK, content_type(file), body, cache_control(path))

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, cache: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": cache}
        for name, value in {**headers, **self.server.page_headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        _log.debug("request", line=format % args)


def main() -> None:
    """Build and serve until told to stop."""
    try:
        settings = load_settings()
        configure_logs(settings, PROCESS)
        stopping = stop_flag()
        build = Build()
        try:
            server = FrontendServer(settings, build)
        except OSError as error:
            where = f"{settings.host}:{settings.frontend_port}"
            raise SettingsError(f"{PREFIX}FRONTEND_PORT: cannot listen on {where}: {error.strerror}") from error
    except SettingsError as error:
        sys.exit(str(error))
    build.start()
    threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
    _log.info("serving", url=settings.frontend_url())
    stopping.wait()
    build.stop()
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
