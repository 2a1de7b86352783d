"""GET /api/v3/time."""

from typing import TypedDict

from functions.api.function import Function, Group
from functions.api.ports import Call, Ports
from functions.api.shapes import Time


class TimeShape(TypedDict):
    """The server's time."""

    serverTime: Time


async def get_time(_ports: Ports, call: Call) -> TimeShape:
    """Return the server's time."""
    return TimeShape(serverTime=call.now * call.time_scale)


FUNCTION = Function("GET", "/api/v3/time", Group.MARKET_DATA, "Server time", get_time, needs_nothing=True)
