"""GET /api/v3/ping."""

from functions.api.function import Function, Group
from functions.api.ports import Call, Ports
from functions.api.shapes import Nothing


async def ping(_ports: Ports, _call: Call) -> Nothing:
    """Answer `{}`."""
    return Nothing()


FUNCTION = Function("GET", "/api/v3/ping", Group.MARKET_DATA, "Test connectivity", ping, needs_nothing=True)
