"""Types that many answers share.

Their annotations are for the documentation only: nothing is checked at run time.
"""

from collections.abc import Iterable
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta

from protocol.orders import OrderStatus, OrderType, SelfTradePrevention, Side, TimeInForce

Amount = Annotated[str, Meta(pattern=r"^[0-9]{1,30}\.[0-9]{8}$")]
"""A price, quantity, sum or fraction, with eight decimals."""
Change = Annotated[str, Meta(pattern=r"^-?[0-9]{1,30}\.[0-9]{8}$")]
"""The same, possibly negative."""
Percent = Annotated[str, Meta(pattern=r"^-?[0-9]{1,30}\.[0-9]{3}$")]
Multiplier = Annotated[str, Meta(pattern=r"^[0-9]{1,13}\.[0-9]{6}$")]
Zero = Annotated[str, Meta(pattern="^0$")]
"""Binance's notation for none."""
Time = Annotated[int, Meta(ge=0)]
"""In ms, or in µs if the client has asked for that."""
NoRows = Annotated[list[None], Meta(max_length=0)]
"""An empty list."""


def one_of(names: Iterable[str]) -> Any:
    """Return the annotation of a text that is one of `names`."""
    return Meta(extra_json_schema={"enum": sorted(names)})


SideName = Annotated[str, one_of(side.name for side in Side)]
OrderTypeName = Annotated[str, one_of(order_type.name for order_type in OrderType)]
TimeInForceName = Annotated[str, one_of(time_in_force.name for time_in_force in TimeInForce)]
StatusName = Annotated[
    str, one_of(status.name for status in OrderStatus if status is not OrderStatus.IN_FLIGHT)
]
PreventionName = Annotated[str, one_of(mode.name for mode in SelfTradePrevention)]


class Nothing(TypedDict):
    """An empty object: the request succeeded."""


class LimitShape(TypedDict):
    """A rate limit."""

    rateLimitType: Annotated[str, one_of(("ORDERS", "REQUEST_WEIGHT", "RAW_REQUESTS", "CONNECTIONS"))]
    interval: Annotated[str, one_of(("SECOND", "MINUTE", "DAY"))]
    intervalNum: int
    limit: int


class CountedLimitShape(LimitShape):
    """A rate limit and its used part."""

    count: int


class ErrorShape(msgspec.Struct):
    """An error: Binance's code if there is one, and a text for people."""

    code: int
    msg: str
