"""GET /api/v1/activity: what was done with the account."""

from typing import Annotated

import msgspec

from functions.api.function import Function, Group, Parameter, Security, limit_parameter
from functions.api.ports import Call, Ports
from functions.api.shapes import Time, one_of
from functions.users.activity import Activity

_SELECT = """
    SELECT activity_id, (extract(epoch from time) * 1000)::bigint, kind, address, agent, detail FROM activity
    WHERE account_id = %(account)s AND (%(before)s::bigint IS NULL OR activity_id < %(before)s)
    ORDER BY activity_id DESC LIMIT %(limit)s
"""
_LIMIT, _LIMIT_MAX = 100, 1_000


class ActivityShape(msgspec.Struct, rename="camel"):
    """One thing that was done: when (ms or µs), what, from where and with what."""

    id: int
    time: Time
    kind: Annotated[str, one_of(Activity)]
    address: str
    user_agent: str
    detail: str
    """The session or key that it was about."""


async def get_activity(ports: Ports, call: Call) -> list[ActivityShape]:
    """Return what was done with the account, newest first: sign-ins, also those that were refused, keys, sessions, passwords."""
    wanted = {
        "account": call.account_id,
        "before": call.parameters.integer("beforeId"),
        "limit": call.parameters.limit(_LIMIT, _LIMIT_MAX),
    }
    rows = await ports.database.fetch(_SELECT, wanted)
    return [
        ActivityShape(number, time * call.time_scale, kind, address, agent, detail)
        for number, time, kind, address, agent, detail in rows
    ]


FUNCTION = Function(
    "GET",
    "/api/v1/activity",
    Group.USERS,
    "What was done with the account",
    get_activity,
    security=Security.SESSION,
    weight=5,
    parameters=(
        Parameter("beforeId", "Only what came before this one.", kind="integer"),
        limit_parameter(_LIMIT, _LIMIT_MAX),
    ),
)
