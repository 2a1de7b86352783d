"""The cookie that holds a browser's session.

Scripts cannot read it, pages of other origins cannot have it sent along.

The prefix makes browsers refuse one that was set without `Secure`, for another path, or by a neighbouring
host. Browsers take `Secure` from 127.0.0.1 and localhost as well as from HTTPS.
"""

from typing import Final

COOKIE: Final = "__Host-session"
_ATTRIBUTES: Final = "Path=/; Secure; HttpOnly; SameSite=Strict"

Header = tuple[bytes, bytes]


def cookie_that_signs_in(token: str, ttl_s: int) -> Header:
    """Return the header that gives a browser its session."""
    return b"set-cookie", f"{COOKIE}={token}; Max-Age={ttl_s}; {_ATTRIBUTES}".encode()


def cookie_that_signs_out() -> Header:
    """Return the header that takes it away."""
    return b"set-cookie", f"{COOKIE}=; Max-Age=0; {_ATTRIBUTES}".encode()


def token_in(cookies: str) -> str:
    """Return the session's token of a `Cookie` header; empty: it has none."""
    for pair in cookies.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
