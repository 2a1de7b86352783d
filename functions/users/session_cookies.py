"""The cookie with a browser's session.

Scripts cannot read it, and browsers do not send it with requests from other origins.

The name's prefix makes browsers refuse a cookie that was set without `Secure`, for another path, or by a
neighbouring host. Browsers accept `Secure` from 127.0.0.1 and localhost as from HTTPS.
"""

from typing import Final

COOKIE: Final = "__Host-session"
_ATTRIBUTES: Final = "Path=/; Secure; HttpOnly; SameSite=Strict"

Header = tuple[bytes, bytes]


def cookie_that_signs_in(token: str, ttl_s: int) -> Header:
    """Return the header that sets a browser's session cookie."""
    return b"set-cookie", f"{COOKIE}={token}; Max-Age={ttl_s}; {_ATTRIBUTES}".encode()


def cookie_that_signs_out() -> Header:
    """Return the header that deletes the cookie."""
    return b"set-cookie", f"{COOKIE}=; Max-Age=0; {_ATTRIBUTES}".encode()


def token_in(cookies: str) -> str:
    """Return the session token in a `Cookie` header, or an empty text."""
    for pair in cookies.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
