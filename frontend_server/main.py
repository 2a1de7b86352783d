"""Serves the frontend, and passes its requests on to the API. `python -m frontend_server.main`."""

import asyncio
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from aiohttp import web

from frontend_server.build import BUILT, Build, BuildState
from frontend_server.pages import cache_control, content_type, file_of, security_headers
from frontend_server.passing_on import PREFIXES, Passing
from runtime import process
from runtime.lifecycle import stop_event
from runtime.process import Process
from runtime.settings import PREFIX, Settings, SettingsError
from runtime.tasks import to_the_end
from runtime.tls import LocalTrust, ServerTls

PROCESS: Final = "frontend"
_IDLE_S: Final = 30
_BODY_BYTES_MAX: Final = 65_536
_STOP_S: Final = 5.0
_WAITING: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width"><title>Exchange</title>
<body style="background:#0b0d12;color:#b9c0cc;font:16px system-ui;display:grid;
place-items:center;min-height:90vh;text-align:center">
<p>{}</p></body></html>"""

_log = structlog.get_logger()


class Pages:
    """The built files; until they exist, a page shows the progress of the build."""

    def __init__(self, settings: Settings, build: Build) -> None:
        ws_url = settings.frontend_ws_url or settings.ws_url()
        self._build = build
        self._config = msgspec.json.encode({"wsUrl": ws_url})
        self._headers = security_headers(ws_url)

    async def config(self, _request: web.Request) -> web.Response:
        """Say where the streams are."""
        return self._answer(HTTPStatus.OK, "application/json", self._config, "no-store")

    async def health(self, _request: web.Request) -> web.Response:
        """Say how far the build is."""
        health = msgspec.json.encode({"state": self._build.state, "reason": self._build.reason})
        return self._answer(HTTPStatus.OK, "application/json", health, "no-store")

    async def page(self, request: web.Request) -> web.Response:
        """Answer with a file."""
        if self._build.state is not BuildState.READY:
            is_building = self._build.state is BuildState.BUILDING
            text = (
                "The frontend is being built …" if is_building else "There is no frontend; its log says why."
            )
            body = _WAITING.format(text).encode()
            return self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/html; charset=utf-8", body, "no-store")
        return await asyncio.to_thread(self._file, request.path)

    def _file(self, path: str) -> web.Response:
        file = file_of(path)
        try:
            if file is None:
                raise FileNotFoundError(path)
            body = (BUILT / file).read_bytes()
        except OSError:
            body = (BUILT / "404.html").read_bytes()
            return self._answer(HTTPStatus.NOT_FOUND, "text/html; charset=utf-8", body, "no-cache")
        return self._answer(HTTPStatus.OK, content_type(file), body, cache_control(path))

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, cache: str) -> web.Response:
        headers = {"Content-Type": kind, "Cache-Control": cache, **self._headers}
        return web.Response(status=status, body=body, headers=headers)


def create_app(settings: Settings, build: Build) -> web.Application:
    """Return the application."""
    pages, passing = (
        Pages(settings, build),
        Passing(
            settings.frontend_api_url or settings.rest_url(),
            LocalTrust.of(settings, settings.frontend_api_url),
        ),
    )
    app = web.Application(client_max_size=_BODY_BYTES_MAX)
    app.on_startup.append(passing.open)
    app.on_cleanup.append(passing.close)
    for prefix in PREFIXES:
        app.router.add_route("*", prefix + "{path:.*}", passing.handle)
    app.router.add_get("/config.json", pages.config)
    app.router.add_get("/health", pages.health)
    app.router.add_get("/{path:.*}", pages.page)
    return app


async def serve(settings: Settings, build: Build, tls: ServerTls | None = None) -> None:
    """Serve until a stop request.

    Raises:
        SettingsError: the port is in use, or the address is not this machine's.
    """
    stop = stop_event()
    runner = web.AppRunner(
        create_app(settings, build), access_log=None, keepalive_timeout=_IDLE_S, shutdown_timeout=_STOP_S
    )
    await runner.setup()
    try:
        try:
            context = tls.context if tls is not None else None
            await web.TCPSite(runner, settings.host, settings.frontend_port, ssl_context=context).start()
        except OSError as error:
            where = f"{settings.host}:{settings.frontend_port}"
            raise SettingsError(
                f"{PREFIX}FRONTEND_PORT: cannot listen on {where}: {error.strerror}"
            ) from error
        build.start()
        watching = asyncio.create_task(tls.watch()) if tls is not None else None
        _log.info("serving", url=settings.frontend_url())
        await stop.wait()
        if watching is not None:
            watching.cancel()
    finally:
        build.stop()
        await runner.cleanup()


def main() -> None:
    """Build and serve until a stop request."""
    process.run(_run, PROCESS, allows_unsafe=True, agrees=False, has_metrics=False)


def _run(started: Process) -> None:
    settings = started.settings
    asyncio.run(to_the_end(serve(settings, Build(), ServerTls.of(settings))))


if __name__ == "__main__":
    main()
