"""GET /api/v1/activity: the activity of the account."""

from typing import Annotated

import msgspec

from functions.api.function import Function, Group, Parameter, Security, limit_parameter
from functions.api.ports import Call, Ports
from functions.api.shapes import Time, one_of
from functions.users.activity import Activity

_LIMIT, _LIMIT_MAX = 100, 1_000


class ActivityShape(msgspec.Struct, rename="camel"):
    """One activity: time (ms or µs), kind, address and program."""

    id: int
    time: Time
    kind: Annotated[str, one_of(Activity)]
    address: str
    user_agent: str
    detail: str
    """The session or key concerned."""


async def get_activity(ports: Ports, call: Call) -> list[ActivityShape]:
    """Return the account's activity, newest first: sign-ins and refused ones, keys, sessions, passwords."""
    before_id, limit = call.parameters.integer("beforeId"), call.parameters.limit(_LIMIT, _LIMIT_MAX)
    entries = await ports.activity.newest(call.account_id, before_id=before_id, limit=limit)
    return [
        ActivityShape(
            entry.activity_id,
            entry.time * call.time_scale,
            entry.kind,
            entry.address,
            entry.agent,
            entry.detail,
        )
        for entry in entries
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
