"""Rate limits in answers to clients."""

from typing import Final

from functions.api.errors import ApiError
from functions.api.shapes import LimitShape
from protocol.configuration import AccountLimits
from protocol.units import TimeMs
from runtime.settings import Settings

_TEN_SECONDS_MS: Final = 10_000
_DAY_MS: Final = 86_400_000
_NONE: Final = AccountLimits(1)


def order_limits(settings: Settings, own: AccountLimits | None = None) -> list[LimitShape]:
    """Return the limits on an account's orders.

    `own` are those that an operator has set for it, from its shard.
    """
    ten_seconds, day = _largest(settings, own)
    return [
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": ten_seconds},
        {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": day},
    ]


def too_many_orders(own: AccountLimits, counts: tuple[int, int], now: TimeMs) -> ApiError:
    """-1015 for a shard's refusal by an operator's limits: names the limit and the remaining seconds.

    `counts` are the unfilled orders of the ten seconds and the day. The shard also counts filled ones, so
    these counts only show that the daily limit is meant if they have reached it.
    """
    is_day = not own.orders_10s_max or 0 < own.orders_1d_max <= counts[1]
    most, period, window_ms = (
        (own.orders_1d_max, "1 DAY", _DAY_MS)
        if is_day
        else (own.orders_10s_max, "10 SECOND", _TEN_SECONDS_MS)
    )
    left_s = -(-(window_ms - now % window_ms) // 1000)
    return ApiError(-1015, f"Too many new orders; current limit is {most} orders per {period}.", 429, left_s)


def _largest(settings: Settings, own: AccountLimits | None) -> tuple[int, int]:
    own = own or _NONE
    return (
        min(settings.orders_per_10s, own.orders_10s_max or settings.orders_per_10s),
        min(settings.orders_per_day, own.orders_1d_max or settings.orders_per_day),
    )


def weight_limit(settings: Settings) -> LimitShape:
    """Return the limit on a network's request weight."""
    return {
        "rateLimitType": "REQUEST_WEIGHT",
        "interval": "MINUTE",
        "intervalNum": 1,
        "limit": settings.request_weight_per_minute,
    }


def raw_requests_limit(settings: Settings) -> LimitShape:
    """Return the limit on a network's number of requests, whatever their weight."""
    return {
        "rateLimitType": "RAW_REQUESTS",
        "interval": "MINUTE",
        "intervalNum": 5,
        "limit": settings.raw_requests_per_5m,
    }


def connections_limit(settings: Settings) -> LimitShape:
    """Return the limit on how many WebSockets a network may open."""
    return {
        "rateLimitType": "CONNECTIONS",
        "interval": "MINUTE",
        "intervalNum": 5,
        "limit": settings.ws_connections_per_5m,
    }
