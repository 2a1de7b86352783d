"""Answers to errors: always JSON, always `{code, msg}`."""

import msgspec

from functions.api.errors import ApiError
from functions.api.shapes import ErrorShape


def error_body(error: ApiError) -> bytes:
    """Return the answer's body."""
    return msgspec.json.encode(ErrorShape(error.code, error.message))


def path_unknown() -> ApiError:
    """The path does not exist."""
    return ApiError(-1020, "This operation is not supported.", 404)


def method_not_allowed() -> ApiError:
    """The path does not have this method."""
    return ApiError(-1020, "This operation is not supported.", 405)


def body_too_large() -> ApiError:
    """The body is larger than any request needs."""
    return ApiError(-1000, "Request body is too large.", 413)


def url_too_long() -> ApiError:
    """Path and query are longer than any request needs."""
    return ApiError(-1000, "Request URL is too long.", 414)


def head_too_large() -> ApiError:
    """The headers, or the trailers, are larger than any request needs."""
    return ApiError(-1000, "Request headers are too large.", 431)


def too_slow() -> ApiError:
    """The request did not arrive in time; nothing was done."""
    return ApiError(-1000, "Request did not arrive in time.", 408)


def malformed(status: int) -> ApiError:
    """The server library refused the request."""
    return ApiError(-1000, "An unknown error occurred while processing the request.", status)


def internal() -> ApiError:
    """A bug, which is in the log."""
    return ApiError(-1000, "An unknown error occurred while processing the request.", 500)
