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


def raw_requests_limit(settings: Settings) -> dict[str, object]:
    """Return the limit on how often an address may ask, whatever that weighs."""
    return {
        "rateLimitType": "RAW_REQUESTS",
        "interval": "MINUTE",
        "intervalNum": 5,
        "limit": settings.raw_requests_per_5m,
    }


def connections_limit(settings: Settings) -> dict[str, object]:
    """Return the limit on how often an address may open a WebSocket."""
    return {
        "rateLimitType": "CONNECTIONS",
        "interval": "MINUTE",
        "intervalNum": 5,
        "limit": settings.ws_connections_per_5m,
    }
