"""Requests with a browser's cookie: whether they come from the exchange's own page. Pure."""

import hmac
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from functions.api.errors import ApiError
from functions.users.sessions import csrf_token

_READING: Final = ("GET", "HEAD")
_OWN: Final = (b"same-origin", b"none")
"""The values of `Sec-Fetch-Site` for requests of the own page, and of URLs that a person opens."""


def check_page(method: str, headers: Mapping[bytes, bytes], token: str, origins: frozenset[bytes]) -> None:
    """Refuse with -1002 a request that another page may have made the browser send.

    A request that changes something must come from one of `origins`, with the session's CSRF token, which
    only a page knows that may read the exchange's answers. A request that only reads is harmless: no other
    page can read its answer.
    """
    origin = headers.get(b"origin")
    if origin is not None and origin not in origins:
        raise _not_the_page()
    if headers.get(b"sec-fetch-site", b"none") not in _OWN:
        raise _not_the_page()
    if method in _READING:
        return
    sent_token = headers.get(b"x-csrf-token", b"")
    if origin is None or not hmac.compare_digest(sent_token, csrf_token(token).encode()):
        raise _not_the_page()


def _not_the_page() -> ApiError:
    return ApiError(-1002, "You are not authorized to execute this request.", HTTPStatus.FORBIDDEN)
