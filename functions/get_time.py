"""GET /api/v3/time."""

from functions.function import Function, Group
from functions.ports import Call, Ports


async def get_time(_ports: Ports, call: Call) -> object:
    """Return the server's time."""
    return {"serverTime": call.now * call.time_scale}


FUNCTION = Function("GET", "/api/v3/time", Group.MARKET_DATA, "Server time", get_time)
