"""Which file answers a path, and with what headers. Pure."""

import mimetypes
import re
from pathlib import PurePosixPath
from typing import Final

_MARKET: Final = re.compile(r"/trade(/[A-Za-z0-9]{1,40})?/?", re.ASCII)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.$~-]+", re.ASCII)
_HASHED: Final = "/_next/static/"
_TEXT: Final = ("text/", "application/javascript", "application/json", "image/svg+xml")


def file_of(path: str) -> PurePosixPath | None:
    """Return the file, below the folder of the built frontend, that answers `path`; None: there is none.

    Every market's page is the same file, which reads the market from its address.
    """
    if path == "/":
        return PurePosixPath("index.html")
    if _MARKET.fullmatch(path):
        return PurePosixPath("trade.html")
    segments = path.removeprefix("/").split("/")
    if not all(_SEGMENT.fullmatch(segment) and not segment.startswith(".") for segment in segments):
        return None
    file = PurePosixPath(*segments)
    return file if file.suffix else file.with_suffix(".html")


def content_type(file: PurePosixPath) -> str:
    """Return the type to serve `file` as."""
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith(_TEXT) else kind


def cache_control(path: str) -> str:
    """Return the cache lifetime of `path`: forever if its name has a hash of its content."""
    return "public, max-age=31536000, immutable" if path.startswith(_HASHED) else "no-cache"


def security_headers(ws_url: str) -> dict[str, str]:
    """Return security headers: a page may run its own scripts, and connect to its origin and the streams."""
    policy = {
        "default-src": "'self'",
        "script-src": "'self' 'unsafe-inline'",  # the export carries its first data in inline scripts
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "connect-src": f"'self' {ws_url}",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
