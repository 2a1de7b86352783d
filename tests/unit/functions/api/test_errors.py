"""Refusals of a shard in Binance's words."""

import pytest

from functions.api.errors import refusal
from protocol.orders import RejectReason


@pytest.mark.parametrize(
    ("reason", "code", "message"),
    [
        (RejectReason.INSUFFICIENT_BALANCE, -2010, "Account has insufficient balance for requested action."),
        (RejectReason.DUPLICATE_CLIENT_ORDER_ID, -2010, "Duplicate order sent."),
        (RejectReason.WOULD_MATCH_IMMEDIATELY, -2010, "Order would immediately match and take."),
        (RejectReason.UNKNOWN_ORDER, -2011, "Unknown order sent."),
        (RejectReason.PRICE_OUTSIDE_BAND, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
        (RejectReason.TOO_MANY_OPEN_ORDERS, -2010, "Filter failure: MAX_NUM_ORDERS"),
        (RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL, -2010, "Filter failure: EXCHANGE_MAX_NUM_ORDERS"),
        (RejectReason.EMPTY_BOOK, -2010, "Order book liquidity is less than symbol minimum quantity."),
        (
            RejectReason.THIN_BOOK,
            -2010,
            "Order book liquidity is less than `LOT_SIZE` filter minimum quantity.",
        ),
        (RejectReason.TOO_MANY_MATCHES, -2010, "Order would trade with more orders than one order may."),
        (RejectReason.NOTIONAL_TOO_SMALL, -1013, "Filter failure: NOTIONAL"),
    ],
)
def test_words(reason: RejectReason, code: int, message: str) -> None:
    error = refusal(reason)
    assert (error.code, error.message, error.status) == (code, message, 400)


@pytest.mark.parametrize("reason", list(RejectReason))
def test_every_reason_has_words_of_its_own(reason: RejectReason) -> None:
    assert refusal(reason).message != "NEW_ORDER_REJECTED"
