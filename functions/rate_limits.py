"""The rate limits as clients are told about them."""

from runtime.settings import Settings


def order_limits(settings: Settings) -> list[dict[str, object]]:
    """Return the limits on an account's orders."""
    return [
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": settings.orders_per_10s},
        {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": settings.orders_per_day},
    ]


def weight_limit(settings: Settings) -> dict[str, object]:
    """Return the limit on an address's request weight."""
    return {
        "rateLimitType": "REQUEST_WEIGHT",
        "interval": "MINUTE",
        "intervalNum": 1,
        "limit": settings.request_weight_per_minute,
    }
