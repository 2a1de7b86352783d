"""The requests of clients: stream names, paths, and the control frames of market streams. Pure."""

import re
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

STREAMS_MAX: Final = 1024
"""Maximum of streams of one connection."""
LISTEN_KEYS_MAX: Final = 10
"""Maximum of listenKeys in one request: each is looked up."""
NAME_LENGTH_MAX: Final = 200
"""Maximum of characters of a stream's name. Binance has no limit; here the name is stored."""
_LISTEN_KEY: Final = re.compile(r"[A-Za-z0-9]{60,64}", re.ASCII)
_PATH_STREAMS_MAX: Final = 100_000
_TIME_UNITS: Final = frozenset({"MICROSECOND", "MILLISECOND"})
_METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_ID_TEXT_MAX: Final = 36
_INT64: Final = range(-(2**63), 2**63)


class RequestError(Exception):
    """A control frame is refused, with Binance's `code` and `msg`.

    `request_id` is the frame's, if it is readable.
    """

    def __init__(self, code: int, message: str, request_id: int | str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


def is_listen_key(name: str) -> bool:
    """Return whether `name` has the form of a listenKey."""
    return _LISTEN_KEY.fullmatch(name) is not None


class Door(StrEnum):
    """The three kinds of connections."""

    RAW = "/ws"
    COMBINED = "/stream"
    API = "/ws-api/v3"


class Target(NamedTuple):
    """The purpose of a connection."""

    door: Door
    names: tuple[str, ...] = ()
    """Streams and listenKeys named in the path, unchecked and decoded."""
    time_scale: int = 1
    rate_limits: bool = True
    """Whether answers of the WebSocket API include the rate limits."""
    is_time_unit_known: bool = True


def parse_target(path: str) -> Target | None:
    """Return the purpose in `path` (with its query); None: the path does not exist.

    `/ws`, `/ws/NAME` (several names divided by slashes), `/ws/NUMBER` (clients that number their
    connections), `/stream?streams=NAME/NAME`, `/ws-api/v3`. Names may be percent-encoded; a plus sign is
    literal (`@kline_1d@+08:00`), never a blank.
    """
    try:
        parts = urlsplit(path)
        query = parse_qs(parts.query.replace("+", "%2B"), max_num_fields=20)
    except ValueError:
        return None
    unit = query.get("timeUnit", ["MILLISECOND"])[-1].upper()
    time_scale = 1000 if unit == "MICROSECOND" else 1
    target = _target(parts.path, query, time_scale)
    return target if target is None or unit in _TIME_UNITS else target._replace(is_time_unit_known=False)


def _target(path: str, query: dict[str, list[str]], time_scale: int) -> Target | None:
    base = path.rstrip("/")
    if base == Door.API:
        return Target(Door.API, (), time_scale, query.get("returnRateLimits", ["true"])[-1] != "false")
    if base == Door.COMBINED:
        return Target(Door.COMBINED, _names("/".join(query.get("streams", []))), time_scale)
    head, _, tail = base.lstrip("/").partition("/")
    if head != "ws":
        return None
    return Target(Door.RAW, () if tail.isdigit() else _names(unquote(tail)), time_scale)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in text[:_PATH_STREAMS_MAX].split("/") if name))


class Request(NamedTuple):
    """A valid control frame."""

    method: str
    params: tuple[Any, ...]
    request_id: int | str | None


def parse_request(text: str | bytes) -> Request:
    """Return the request of a control frame.

    Raises:
        RequestError: it is invalid; code and message are Binance's.
    """
    try:
        frame = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(3, f"Invalid JSON: {error}") from error
    if not isinstance(frame, dict):
        raise RequestError(2, "Invalid request: expected an object")
    request_id = frame.get("id")
    if not _is_id(request_id):
        raise RequestError(2, "Invalid request: request ID must be an unsigned integer")
    method = frame.get("method")
    if method is None:
        raise RequestError(2, "Invalid request: missing field `method`", request_id)
    if method not in _METHODS:
        expected = ", ".join(f"`{method}`" for method in _METHODS)
        raise RequestError(
            2,
            f"Invalid request: unknown variant `{str(method)[:50]}`, expected one of {expected}",
            request_id,
        )
    params = frame.get("params")
    if params is None:
        params = []
    if not isinstance(params, list):
        raise RequestError(2, "Invalid request: params must be an array", request_id)
    _check_params(method, params, request_id)
    return Request(method, tuple(params), request_id)


def _check_params(method: str, params: list[Any], request_id: int | str | None) -> None:
    if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
        if not params:
            raise RequestError(2, "Invalid request: params must name at least one stream", request_id)
        if len(params) > STREAMS_MAX:
            raise RequestError(2, "Invalid request: too many parameters", request_id)
        if not all(isinstance(name, str) for name in params):
            raise RequestError(2, "Invalid request: stream name must be a string", request_id)
        if any(len(name) > NAME_LENGTH_MAX for name in params):
            raise RequestError(2, "Invalid request: stream name is too long", request_id)
    elif method == "LIST_SUBSCRIPTIONS":
        if params:
            raise RequestError(2, "Invalid request: too many parameters", request_id)
    else:
        if not params or not isinstance(params[0], str):
            raise RequestError(2, "Invalid request: property name must be a string", request_id)
        if params[0] != "combined":
            raise RequestError(0, "Unknown property", request_id)
        if len(params) > (2 if method == "SET_PROPERTY" else 1):
            raise RequestError(2, "Invalid request: too many parameters", request_id)
        if method == "SET_PROPERTY" and not (len(params) == 2 and isinstance(params[1], bool)):
            raise RequestError(1, "Invalid value type: expected Boolean", request_id)


def _is_id(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return value in _INT64
    return value is None or (isinstance(value, str) and len(value) <= _ID_TEXT_MAX)


def success(result: object, request_id: int | str | None) -> bytes:
    """Return the answer to a successful request."""
    return msgspec.json.encode({"result": result, "id": request_id})


def failure(error: RequestError) -> bytes:
    """Return the answer to a refused request.

    The reference shows `code` and `msg` at the top level, clients look for them in `error`: they are in both
    places.
    """
    detail = {"code": error.code, "msg": error.message}
    return msgspec.json.encode({**detail, "id": error.request_id, "error": detail})
