"""The id of a request: the client's own `X-Request-Id`, or a new one.

The answer has it in the same header, and every log line has it, too.

The effect of a request on an order is found by the order's own names, which all processes and the database
have: docs/reference/metrics.md.
"""

import re
from typing import Final

from structlog.contextvars import bind_contextvars

from runtime.unique_names import UniqueNames

HEADER: Final = b"x-request-id"

_is_fine: Final = re.compile(rb"[!-~]{1,128}").fullmatch
"""Visible ASCII without spaces, so that it fits into a header and a log line."""
_names: Final = UniqueNames("-")


def begin_request(header: bytes | None) -> bytes:
    """Return the id of the request that the running task answers, and add it to its log lines.

    An invalid id is replaced.
    """
    request_id = header if header is not None and _is_fine(header) else _names.next().encode()
    bind_contextvars(request_id=request_id.decode())
    return request_id
