"""GET /api/v3/ping."""

from functions.function import Function, Group
from functions.ports import Call, Ports


async def ping(_ports: Ports, _call: Call) -> object:
    """Answer `{}`."""
    return {}


FUNCTION = Function("GET", "/api/v3/ping", Group.MARKET_DATA, "Test connectivity", ping)
