"""GET /api/v3/ping."""

from functions.function import Function, Group
from functions.ports import Call, Ports
from functions.shapes import Nothing


async def ping(_ports: Ports, _call: Call) -> Nothing:
    """Answer `{}`."""
    return Nothing()


FUNCTION = Function("GET", "/api/v3/ping", Group.MARKET_DATA, "Test connectivity", ping, needs_nothing=True)
