"""The parameter `timeZone`: the offset from UTC."""

import re
from typing import Final

from functions.api.errors import invalid_parameter
from functions.api.function import Parameter
from functions.api.parameters import Parameters

TIME_ZONE: Final = Parameter(
    "timeZone",
    "Hours, or hours and minutes, ahead of UTC, from -12:00 to +14:00 in quarters of an hour; 0 by default.",
    pattern=r"^[+\-]?[0-9]{1,2}(:[0-5][0-9])?$",
    example="+08:00",
)
QUARTER_MS: Final = 900_000
"""Every time zone's offset from UTC is a multiple of this."""
_FIRST_MS, _LAST_MS = -12 * 3_600_000, 14 * 3_600_000

_time_zone: Final = re.compile("([+-]?)([0-9]{1,2})(?::([0-5][0-9]))?", re.ASCII)


def time_zone_ms(parameters: Parameters) -> int:
    """Return the offset of `timeZone` from UTC in ms.

    Raises:
        ApiError: -1130, it is not a time zone.
    """
    match = _time_zone.fullmatch(parameters.optional("timeZone") or "0")
    if match is None:
        raise invalid_parameter("timeZone")
    sign, hours, minutes = match.groups(default="0")
    offset_ms = (int(hours) * 60 + int(minutes)) * 60_000 * (-1 if sign == "-" else 1)
    if not _FIRST_MS <= offset_ms <= _LAST_MS or offset_ms % QUARTER_MS:
        raise invalid_parameter("timeZone")
    return offset_ms
