"""Errors of the public API: Binance's codes and messages, which clients compare.

Refusals of a shard are translated to them.
"""

from typing import Final

from protocol.orders import RejectReason

STATUS_UNKNOWN: Final = -1007
"""The code of the only error after which the command may have been executed."""
FILTER_FAILURE: Final = -1013
KEYS_RETRY_AFTER_S: Final = 60
"""Seconds after which an account that has used up its idempotency keys may try a new one.

The oldest keys expire first.
"""


class ApiError(Exception):
    """A request was refused: HTTP `status`, Binance's `code` and `message`.

    `retry_after_s` is set when a retry may succeed.

    Each refusal needs its own instance, like every exception: raising the same one again lengthens its
    traceback, which keeps the frames of every raise alive. Therefore functions create them instead of
    constants (tests/support/stored_exceptions.py).
    """

    def __init__(self, code: int, message: str, status: int = 400, retry_after_s: int | None = None) -> None:
        """Create the error; the answer is `{"code": code, "msg": message}`."""
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s


def mandatory_missing(name: str) -> ApiError:
    """-1102: a mandatory parameter is missing or invalid."""
    return ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def parameter_empty(name: str) -> ApiError:
    """-1105: the parameter is empty."""
    return ApiError(-1105, f"Parameter '{name}' was empty.")


def not_required(name: str) -> ApiError:
    """-1106: the parameter is not allowed here."""
    return ApiError(-1106, f"Parameter '{name}' sent when not required.")


def illegal_characters(name: str, legal: str) -> ApiError:
    """-1100: characters outside the legal range."""
    return ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")


def invalid_parameter(name: str) -> ApiError:
    """-1130: the value is invalid."""
    return ApiError(-1130, f"Data sent for parameter '{name}' is not valid.")


def too_precise(name: str) -> ApiError:
    """-1111: more decimals than the unit holds."""
    return ApiError(-1111, f"Parameter '{name}' has too much precision.")


def bad_combination() -> ApiError:
    """-1128: parameters that exclude each other."""
    return ApiError(-1128, "Combination of optional parameters invalid.")


def invalid_symbol() -> ApiError:
    """-1121: no such market."""
    return ApiError(-1121, "Invalid symbol.")


def invalid_json() -> ApiError:
    """-1135: the body is not the expected JSON object."""
    return ApiError(-1135, "Invalid JSON Request")


def filter_failure(name: str) -> ApiError:
    """-1013: the order violates one of the market's filters."""
    return ApiError(FILTER_FAILURE, f"Filter failure: {name}")


def order_does_not_exist() -> ApiError:
    """-2013: the requested order does not exist."""
    return ApiError(-2013, "Order does not exist.")


def client_order_id_invalid() -> ApiError:
    """-2039: the order with this `orderId` has another client order id."""
    return ApiError(-2039, "Client order ID is not correct for this order ID.")


def not_signed_in() -> ApiError:
    """-1002: the session is missing or has ended."""
    return ApiError(-1002, "You are not authorized to execute this request.", 401)


def overloaded(retry_after_s: int = 1) -> ApiError:
    """-1008: nothing was enqueued; try again later."""
    return ApiError(
        -1008,
        "Server is currently overloaded with other requests. Please try again in a few minutes.",
        503,
        retry_after_s,
    )


def unavailable(retry_after_s: int = 1) -> ApiError:
    """-1001: a dependency of the request is unreachable now; nothing was changed."""
    return ApiError(
        -1001, "Internal error; unable to process your request. Please try again.", 503, retry_after_s
    )


def halted(retry_after_s: int = 30) -> ApiError:
    """-1016: a shard that the request needs has halted on an inconsistent state; nothing was enqueued."""
    return ApiError(
        -1016,
        "Trading is halted: a safety check failed, and nothing is processed until it has been looked into.",
        503,
        retry_after_s,
    )


def status_unknown() -> ApiError:
    """-1007: no reply came in time, or the status is not known yet.

    The order may or may not exist: query it by its client order id.
    """
    return ApiError(
        STATUS_UNKNOWN,
        "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
        503,
        1,
    )


_REFUSALS: Final[dict[RejectReason, tuple[int, str]]] = {
    RejectReason.INSUFFICIENT_BALANCE: (-2010, "Account has insufficient balance for requested action."),
    RejectReason.DUPLICATE_CLIENT_ORDER_ID: (-2010, "Duplicate order sent."),
    RejectReason.WOULD_MATCH_IMMEDIATELY: (-2010, "Order would immediately match and take."),
    RejectReason.UNKNOWN_ORDER: (-2011, "Unknown order sent."),
    RejectReason.PRICE_OUT_OF_RANGE: (-1013, "Filter failure: PRICE_FILTER"),
    RejectReason.PRICE_OUTSIDE_BAND: (-1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    RejectReason.QUANTITY_OUT_OF_RANGE: (-1013, "Filter failure: LOT_SIZE"),
    RejectReason.NOTIONAL_TOO_SMALL: (-1013, "Filter failure: NOTIONAL"),
    RejectReason.TOO_MANY_OPEN_ORDERS: (-2010, "Filter failure: MAX_NUM_ORDERS"),
    RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL: (-2010, "Filter failure: EXCHANGE_MAX_NUM_ORDERS"),
    RejectReason.EMPTY_BOOK: (-2010, "Order book liquidity is less than symbol minimum quantity."),
    RejectReason.THIN_BOOK: (-2010, "Order book liquidity is less than `LOT_SIZE` filter minimum quantity."),
    RejectReason.TOO_MANY_MATCHES: (-2010, "Order would trade with more orders than one order may."),
    RejectReason.AMOUNT_OUT_OF_RANGE: (-1130, "Data sent for parameter 'amount' is not valid."),
    RejectReason.INVALID_COMBINATION: (-1014, "Unsupported order combination."),
    RejectReason.MARKET_CLOSED: (-1013, "Market is closed."),
    RejectReason.CONFIG_OUTDATED: (-1130, "The configuration has changed meanwhile."),
    RejectReason.CONFIG_REFUSED: (-1130, "The configuration cannot be changed so."),
    RejectReason.ACCOUNT_IN_USE: (
        -2010,
        "The account has funds, open orders, or idempotency keys that are remembered.",
    ),
    RejectReason.ACCOUNT_FROZEN: (-2010, "This action is disabled on this account."),
    RejectReason.UNDER_MAINTENANCE: (-2010, "The exchange is under maintenance: only cancels are taken."),
    RejectReason.NOT_AUTHORIZED: (-1002, "You are not authorized to execute this request."),
    RejectReason.MARKET_OPEN: (-1130, "The market is open."),
    RejectReason.TOO_LATE: (-1021, "Timestamp for this request is outside of the recvWindow."),
    RejectReason.NOT_UNDERSTOOD: (-1020, "This operation is not supported."),
}


def refusal(reason: RejectReason) -> ApiError:
    """Return a shard's refusal of a command in Binance's words, or in ours if Binance has no equivalent."""
    if reason is RejectReason.TOO_MANY_ORDERS:
        return ApiError(-1015, "Too many new orders; an operator limits this account.", 429)
    if reason is RejectReason.IDEMPOTENCY_KEY_REUSED:
        return ApiError(-2010, "Idempotency key was used with other parameters before.", 422)
    if reason is RejectReason.TRANSFER_ID_REUSED:
        return ApiError(-2010, "Transfer id was used for another asset or amount before.", 422)
    if reason is RejectReason.TOO_MANY_IDEMPOTENCY_KEYS:
        return ApiError(
            -1015, "Too many idempotency keys; each is kept for ten minutes.", 429, KEYS_RETRY_AFTER_S
        )
    if reason in (RejectReason.UNKNOWN_MARKET, RejectReason.UNKNOWN_ASSET):
        # functions have checked this already: the shard's configuration has not arrived yet
        return unavailable()
    if reason is RejectReason.MARKET_BEHIND:
        return overloaded()
    if reason is RejectReason.ORDER_NOT_REMEMBERED:
        return status_unknown()
    code, message = _REFUSALS.get(reason, (-2010, "NEW_ORDER_REJECTED"))
    return ApiError(code, message)
