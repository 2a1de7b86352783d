"""One function behind HTTP: limits, authentication, the call itself, and the answer with its headers.

The `@asgi` routes of the hot paths and the ordinary handlers share this code.
"""

import itertools
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
import structlog

from adapters import auth
from adapters.metrics import PARSE, PARSES_EVERY, FunctionMetrics, count_order
from adapters.rate_limits import RateLimits, Undecided
from adapters.wiring import Surroundings
from functions.api.errors import STATUS_UNKNOWN, ApiError
from functions.api.function import Answered, Function, Group, Security, Written
from functions.api.parameters import Parameters, parse_pairs
from functions.api.ports import MICROSECONDS, MILLISECONDS, Call
from functions.users.activity import AGENT_MAX
from functions.users.session_cookies import token_in
from functions.users.sessions import record_of
from gateway.errors import error_body, internal
from gateway.origins import check_page
from gateway.request_ids import HEADER, begin_request
from protocol.units import AccountId, TimeMs

Headers = list[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json;charset=UTF-8")
_PRIVATE: Final[Headers] = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
"""Headers of every answer that is for one account or contains a secret."""
_NOTHING: Final = b"{}"
_BEARER: Final = "bearer "
_WITH_KEY: Final = (Security.SIGNED, Security.API_KEY)
_ORDER_NAMES: Final = ("symbol", "newClientOrderId", "origClientOrderId", "orderId")
_NO_PARAMETERS: Final = Parameters({})
_numbers: Final = itertools.count()
"""Of parsed orders."""
_encode: Final = msgspec.json.Encoder().encode

_log = structlog.get_logger()


class HttpRequest(NamedTuple):
    """The parts of a request that an endpoint needs."""

    address: str
    headers: Iterable[tuple[bytes, bytes]]
    query: bytes
    body: bytes
    now_us: int
    started: float
    """On the clock `perf_counter`."""


class HttpAnswer(NamedTuple):
    """The answer."""

    status: int
    headers: Headers
    body: bytes


class _Caller(NamedTuple):
    """Who sent a request; a function that anybody may call has none."""

    account_id: AccountId = AccountId(0)
    deadline_us: int = 0
    """When a signed request expires."""
    token: str = ""
    session_id: str = ""
    credential: str = ""


_NO_CALLER: Final = _Caller()


class Endpoint:
    """Answers the requests to one function."""

    def __init__(self, function: Function, surroundings: Surroundings) -> None:
        self.function = function
        self._ports, self._limits, self._signers = (
            surroundings.ports,
            surroundings.limits,
            surroundings.signers,
        )
        self.least_weight = function.weight if isinstance(function.weight, int) else 1
        """The weight of a request as far as path and method determine it."""
        self._known = function.known_parameters()
        self._name = f"{function.method} {function.path}"
        self._metrics = FunctionMetrics(self._name)
        self._tells_all = self._ports.settings.log_level == "debug"
        is_private = function.security is not Security.PUBLIC or function.group is Group.USERS
        self._own_headers = _PRIVATE if is_private else []
        self._origins = frozenset(origin.encode() for origin in self._ports.settings.browser_origins())

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Return the answer; never raises. The request was already charged by path and method."""
        asked = read_headers(request.headers)
        headers = [_JSON, (HEADER, begin_request(asked.request_id)), *self._own_headers]
        try:
            result = await self._call(request, asked, headers)
            if isinstance(result, Answered):
                headers += result.headers
                result = result.shape
            if isinstance(result, Written):
                headers[0] = (b"content-type", result.content_type)
            body, status = result.body if isinstance(result, Written) else _encode(result), 200
            if self.function.places_order:
                count_order(None)
        except ApiError as error:
            status, body = refuse(error, headers)
            if self.function.places_order:
                count_order(error)
        except Exception:
            # The last resort of a process that serves other clients, too; an error that ends here is a bug.
            _log.exception("request failed", function=self.function.path)
            status, body = refuse(internal(), headers)
        headers += weight_headers(self._limits, request.address, TimeMs(request.now_us // 1000))
        self._metrics.observe(status, time.perf_counter() - request.started)
        return HttpAnswer(status, headers, body)

    def count_refused(self, error: ApiError) -> None:
        """Count a request that was refused before the endpoint."""
        self._metrics.observe(error.status, 0.0)
        if self.function.places_order:
            count_order(error)

    def _weigh(self, request: HttpRequest, now_ms: TimeMs) -> tuple[Parameters, int, Undecided | None]:
        """Return the parameters and their weight.

        Charge the weight beyond the amount already charged, which may have to be awaited.
        """
        parameters = self._parameters(request)
        weight = self.function.weight_of(parameters)
        if weight == self.least_weight:
            return parameters, weight, None
        return parameters, weight, self._limits.correct(request.address, weight - self.least_weight, now_ms)

    async def _call(self, request: HttpRequest, asked: "AskedHeaders", headers: Headers) -> object:
        function, limits, now = self.function, self._limits, request.now_us
        now_ms = TimeMs(now // 1000)
        # Charged in full before the caller is looked up: a wrong key or signature costs its sender the same.
        parameters, weight, undecided = self._weigh(request, now_ms)
        if undecided is not None:
            await undecided
        time_scale = scale_of(asked.time_unit)
        account_id, deadline_us, token, session_id, credential = await self._caller(
            request, asked, parameters
        )
        if not function.lenient:
            parameters.refuse_unknown(self._known)
        if function.places_order and next(_numbers) % PARSES_EVERY == 0:
            PARSE.observe(time.perf_counter() - request.started)
        call = Call(
            parameters,
            now_ms,
            account_id,
            time_scale,
            request.body,
            token,
            session_id,
            deadline_us,
            asked.idempotency_key,
            asked.api_key or "",
            credential,
            request.address,
            asked.agent,
        )
        # From here on the order may have been sent: its counts belong in the answer of a refusal, too
        # (`finally`).
        try:
            answer = await function.handle(self._ports, call)
            if function.weighs_nothing_done:
                limits.correct(request.address, -weight, now_ms)
            if self._tells_all:
                _log.debug("answered", function=self._name, account=account_id, **_order_of(parameters))
            return answer
        except ApiError as error:
            if error.code == STATUS_UNKNOWN or self._tells_all:
                names = _order_of(parameters)
                _log.warning(
                    "not answered", function=self._name, account=account_id, code=error.code, **names
                )
            raise
        finally:
            if function.places_order and limits.enabled:
                unknown = limits.know_orders(account_id, now_ms)
                if unknown is not None:
                    await unknown
                last_10s, last_day = limits.order_counts(account_id, now_ms)
                headers.append((b"x-mbx-order-count-10s", b"%d" % last_10s))
                headers.append((b"x-mbx-order-count-1d", b"%d" % last_day))

    async def _caller(self, request: HttpRequest, asked: "AskedHeaders", parameters: Parameters) -> _Caller:
        """Return the caller, as far as the function needs to know it."""
        security = self.function.security
        if security is Security.OWNER:
            security = Security.SESSION if asked.api_key is None else Security.SIGNED
        if security in _WITH_KEY:
            key = auth.check_key_format(asked.api_key)
            signer = self._signers.cached(key) or await self._signers.signer(key)
            deadline_us = 0
            if security is Security.SIGNED:
                deadline_us = auth.check_request(
                    signer, request.query, request.body, parameters, request.now_us
                )
            auth.check_permission(signer, self.function.scope, request.address, request.now_us)
            if not signer.is_ticket:
                self._signers.note_use(key, request.now_us)
            return _Caller(signer.account_id, deadline_us, credential=signer.credential)
        if security is Security.SESSION:
            token = asked.bearer or self._token_of_page(request)
            record = await record_of(self._ports.key_values, token)
            return _Caller(record.account_id, token=token, session_id=record.session_id)
        return _NO_CALLER

    def _token_of_page(self, request: HttpRequest) -> str:
        """Return the session token in a page's cookie, or an empty text."""
        headers = dict(request.headers)
        token = token_in(headers.get(b"cookie", b"").decode("latin-1"))
        if token:
            check_page(self.function.method, headers, token, self._origins)
        return token

    def _parameters(self, request: HttpRequest) -> Parameters:
        values = parse_pairs(request.query)
        # Clients that always send JSON mean by an empty object that there are no parameters.
        if request.body and self.function.body is None and request.body.strip() != _NOTHING:
            # A parameter in the query takes precedence over the same one in the body.
            values = {**parse_pairs(request.body), **values}
        return Parameters(values) if values else _NO_PARAMETERS


def weight_headers(limits: RateLimits, address: str, now: TimeMs) -> Headers:
    """Return the headers with the request weight that an address has used.

    Empty if requests are not limited.
    """
    if not limits.enabled:
        return []
    used = b"%d" % limits.weight_used(address, now)
    return [(b"x-mbx-used-weight", used), (b"x-mbx-used-weight-1m", used)]


def refuse(error: ApiError, headers: Headers) -> tuple[int, bytes]:
    """Return status and body of an error; add the headers that it needs to `headers`."""
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return error.status, error_body(error)


class AskedHeaders(NamedTuple):
    """The relevant headers of a request."""

    api_key: str | None
    bearer: str
    time_unit: bytes
    request_id: bytes | None
    idempotency_key: str
    agent: str


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> AskedHeaders:
    """Return the relevant headers of a request."""
    api_key, bearer, time_unit, request_id, idempotency_key, agent = None, "", b"", None, "", ""
    for name, value in headers:
        if name == b"x-mbx-apikey":
            api_key = value.decode("latin-1")
        elif name == b"authorization":
            text = value.decode("latin-1")
            if text[: len(_BEARER)].lower() == _BEARER:
                bearer = text[len(_BEARER) :].strip()
        elif name == b"x-mbx-time-unit":
            time_unit = value.upper()
        elif name == HEADER:
            request_id = value
        elif name == b"idempotency-key":
            idempotency_key = value.decode("latin-1")
        elif name == b"user-agent":
            agent = value[:AGENT_MAX].decode("latin-1").replace("\x00", "")
    return AskedHeaders(api_key, bearer, time_unit, request_id, idempotency_key, agent)


def scale_of(time_unit: bytes) -> int:
    """Return the factor of the requested time unit."""
    if time_unit in (b"", b"MILLISECOND"):
        return MILLISECONDS
    if time_unit == b"MICROSECOND":
        return MICROSECONDS
    raise ApiError(-1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.")


def _order_of(parameters: Parameters) -> dict[str, str]:
    """Return the names by which an order is found in every process's log and in the database."""
    return {name: parameters.values[name] for name in _ORDER_NAMES if name in parameters.values}
