"""Forwards the pages' requests to the API, so that both have one origin, and cookies go nowhere else."""

from typing import Final

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from multidict import CIMultiDict
from yarl import URL

from runtime.tls import LocalTrust

PREFIXES: Final = ("/api/", "/sapi/")
_TIMEOUT_S: Final = 30.0
_CHUNK_BYTES: Final = 65_536
_OF_ONE_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""What is between two neighbours, and is not passed on."""
_FORWARDED: Final = "X-Forwarded-For"
_AWAY: Final = b'{"code":-1001,"msg":"Internal error; unable to process your request. Please try again."}'

_log = structlog.get_logger()


class Passing:
    """Requests to the API at `api_url`, and its answers, as they are."""

    def __init__(self, api_url: str, trust: LocalTrust | None = None) -> None:
        self._trust = trust
        self._api_url = api_url.rstrip("/")
        self._session: ClientSession | None = None

    async def open(self, _app: web.Application) -> None:
        """Get ready."""
        self._session = ClientSession(timeout=ClientTimeout(total=_TIMEOUT_S), auto_decompress=False)

    async def close(self, _app: web.Application) -> None:
        """Let go of all connections."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Return the API's answer.

        503 if there is none, which leaves the outcome of the request open.
        """
        assert self._session is not None
        # As it was sent: signatures are of the very bytes.
        url = URL(self._api_url + request.raw_path, encoded=True)
        body = await request.read()
        if self._trust is not None:
            self._trust.refresh()
        try:
            async with self._session.request(
                request.method,
                url,
                headers=self._headers(request),
                data=body or None,
                allow_redirects=False,
                ssl=self._trust.context if self._trust is not None else True,
            ) as answer:
                headers = CIMultiDict(
                    (n, v) for n, v in answer.headers.items() if n.lower() not in _OF_ONE_HOP
                )
                response = web.StreamResponse(status=answer.status, headers=headers)
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (ClientError, TimeoutError) as error:
            _log.warning("the API does not answer", url=self._api_url, error=str(error))
            return web.Response(status=503, body=_AWAY, content_type="application/json")

    def _headers(self, request: web.Request) -> CIMultiDict[str]:
        left_out = _OF_ONE_HOP | {"host", "content-length", _FORWARDED.lower()}
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in left_out
        )
        hops = [*request.headers.getall(_FORWARDED, []), request.remote or "unknown"]
        headers[_FORWARDED] = ", ".join(hops)
        return headers
