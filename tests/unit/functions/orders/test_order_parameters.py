"""New orders: what is missing, what does not belong, and the filters."""

import pytest

from functions.api.errors import ApiError
from functions.api.parameters import Parameters
from functions.orders.order_parameters import OrderRequest, ResponseType, estimated_bound, parse_order
from protocol.market_data import BookTicker
from protocol.orders import OrderTerms, OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.units import PriceTicks, QuantityLots, Sequence, TimeMs
from runtime.settings import Settings
from tests.support.currencies import currencies

MARKETS = Settings().market_map()
LIMIT = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.001",
    "price": "50000.01",
}
MAKER = {key: value for key, value in LIMIT.items() if key != "timeInForce"} | {"type": "LIMIT_MAKER"}
MARKET = {"symbol": "BTCUSDT", "side": "SELL", "type": "MARKET", "quantity": "0.5"}
QUOTE = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quoteOrderQty": "100"}


def parsed(base: dict[str, str], **changes: str | None) -> OrderRequest:
    values = {key: value for key, value in {**base, **changes}.items() if value is not None}
    return parse_order(Parameters(values), MARKETS)


def test_a_limit_order() -> None:
    order = parsed(LIMIT)
    assert (order.side, order.order_type, order.time_in_force) == (Side.BUY, OrderType.LIMIT, TimeInForce.GTC)
    assert (order.price, order.quantity, order.quote_quantity) == (5_000_001, 100, 0)
    assert (order.self_trade_prevention, order.response_type) == (
        SelfTradePrevention.EXPIRE_MAKER,
        ResponseType.FULL,
    )
    assert order.client_order_id is None


def test_a_market_order_by_quote_quantity() -> None:
    order = parsed(QUOTE)
    assert (order.price, order.quantity, order.quote_quantity) == (0, 0, 100 * 10**8)
    assert order.time_in_force is TimeInForce.IOC


def test_post_only_answers_ack() -> None:
    assert parsed(MAKER).response_type is ResponseType.ACK


def test_self_trade_prevention_can_be_switched_off() -> None:
    assert parsed(LIMIT, selfTradePreventionMode="NONE").self_trade_prevention is SelfTradePrevention.NONE


@pytest.mark.parametrize(
    ("base", "changes", "code", "message"),
    [
        (LIMIT, {"symbol": None}, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or "
                                         "malformed."),
        (LIMIT, {"symbol": "NOPE"}, -1121, "Invalid symbol."),
        (LIMIT, {"side": None}, -1102, "Mandatory parameter 'side' was not sent, was empty/null, or "
                                       "malformed."),
        (LIMIT, {"side": "buy"}, -1117, "Invalid side."),
        (LIMIT, {"type": None}, -1102, "Mandatory parameter 'type' was not sent, was empty/null, or "
                                       "malformed."),
        (LIMIT, {"type": "LIMITED"}, -1116, "Invalid orderType."),
        (LIMIT, {"type": "STOP_LOSS"}, -1013, "Stop loss orders are not supported for this symbol."),
        (LIMIT, {"timeInForce": None}, -1102, "Mandatory parameter 'timeInForce' was not sent, was "
                                              "empty/null, or malformed."),
        (LIMIT, {"timeInForce": "GTX"}, -1115, "Invalid timeInForce."),
        (LIMIT, {"price": None}, -1102, "Mandatory parameter 'price' was not sent, was empty/null, or "
                                        "malformed."),
        (LIMIT, {"quantity": None}, -1102, "Mandatory parameter 'quantity' was not sent, was empty/null, or "
                                           "malformed."),
        (LIMIT, {"quantity": ""}, -1105, "Parameter 'quantity' was empty."),
        (LIMIT, {"quoteOrderQty": "1"}, -1106, "Parameter 'quoteOrderQty' sent when not required."),
        (LIMIT, {"stopPrice": "1"}, -1106, "Parameter 'stopPrice' sent when not required."),
        (LIMIT, {"icebergQty": "1"}, -1013, "Iceberg orders are not supported for this symbol."),
        (LIMIT, {"price": "0"}, -1013, "Invalid price."),
        (LIMIT, {"price": "50000.001"}, -1013, "Filter failure: PRICE_FILTER"),
        (LIMIT, {"price": "0.000000001"}, -1111, "Parameter 'price' has too much precision."),
        (LIMIT, {"price": "1000000.01"}, -1013, "Filter failure: PRICE_FILTER"),
        (LIMIT, {"price": "9" * 20}, -1013, "Filter failure: PRICE_FILTER"),
        (LIMIT, {"quantity": "0"}, -1013, "Invalid quantity."),
        (LIMIT, {"quantity": "0.000011"}, -1013, "Filter failure: LOT_SIZE"),
        (LIMIT, {"quantity": "9000.00001"}, -1013, "Filter failure: LOT_SIZE"),
        (LIMIT, {"quantity": "9" * 20}, -1013, "Filter failure: LOT_SIZE"),
        (LIMIT, {"quantity": "0.00001", "price": "1"}, -1013, "Filter failure: NOTIONAL"),
        (LIMIT, {"newOrderRespType": "LONG"}, -1130, "Data sent for parameter 'newOrderRespType' is not "
                                                     "valid."),
        (LIMIT, {"selfTradePreventionMode": "X"}, -1130, "Data sent for parameter 'selfTradePreventionMode' "
                                                         "is not valid."),
        (LIMIT, {"selfTradePreventionMode": "DECREMENT"}, -1013,
         "This symbol does not allow the specified self-trade prevention mode."),
        (MARKET, {"selfTradePreventionMode": "TRANSFER"}, -1013,
         "This symbol does not allow the specified self-trade prevention mode."),
        (LIMIT, {"pegPriceType": "PRIMARY_PEG"}, -1013, "Pegged orders are not supported for this symbol."),
        (MAKER, {"pegOffsetType": "PRICE_LEVEL", "pegOffsetValue": "1"}, -1013, "Pegged orders are not "
                                                                                "supported for this symbol."),
        (LIMIT, {"strategyType": "1"}, -1134, "`strategyType` was less than 1000000."),
        (LIMIT, {"strategyType": "0"}, -1134, "`strategyType` was less than 1000000."),
        (LIMIT, {"strategyId": str(2**63)}, -1108, "Parameter 'strategyId' overflowed."),
        (LIMIT, {"strategyType": str(2**63)}, -1108, "Parameter 'strategyType' overflowed."),
        (MAKER, {"timeInForce": "GTC"}, -1106, "Parameter 'timeInForce' sent when not required."),
        (MARKET, {"price": "1"}, -1106, "Parameter 'price' sent when not required."),
        (MARKET, {"timeInForce": "GTC"}, -1106, "Parameter 'timeInForce' sent when not required."),
        (MARKET, {"quantity": None}, -1102, "Mandatory parameter 'quantity' was not sent, was empty/null, "
                                            "or malformed."),
        (MARKET, {"quoteOrderQty": "5"}, -1106, "Parameter 'quoteOrderQty' sent when not required."),
        (MARKET, {"quantity": "0.000011"}, -1013, "Filter failure: MARKET_LOT_SIZE"),
        (QUOTE, {"quoteOrderQty": "4.99"}, -1013, "Filter failure: NOTIONAL"),
        (QUOTE, {"quoteOrderQty": "0"}, -1013, "Invalid quoteOrderQty."),
        (QUOTE, {"quoteOrderQty": "9" * 20}, -1013, "Filter failure: NOTIONAL"),
    ],
)  # fmt: skip
def test_refusals(base: dict[str, str], changes: dict[str, str | None], code: int, message: str) -> None:
    with pytest.raises(ApiError) as refusal:
        parsed(base, **changes)
    assert (refusal.value.code, refusal.value.message) == (code, message)


def test_client_order_ids() -> None:
    assert parsed(LIMIT, newClientOrderId="a.B:/-_1").client_order_id == "a.B:/-_1"
    for text in ("x" * 37, "with space", "é"):
        with pytest.raises(ApiError) as refusal:
            parsed(LIMIT, newClientOrderId=text)
        assert refusal.value.code == -1100


def book(bid: int, ask: int) -> BookTicker:
    return BookTicker(
        TimeMs(0), "BTCUSDT", Sequence(1), PriceTicks(bid), QuantityLots(1), PriceTicks(ask), QuantityLots(1)
    )


def test_what_a_purchase_is_estimated_to_cost() -> None:
    buy = parsed(MARKET, side="BUY")
    price_max = buy.market.price_max
    assert estimated_bound(buy, book(99, 101)) == 107  # 106.05: not less than what its market's shard allows
    assert estimated_bound(buy, book(99, 100)) == 105
    assert estimated_bound(buy, book(99, 0)) == price_max
    assert estimated_bound(buy, None) == price_max
    assert estimated_bound(buy, book(1, price_max)) == price_max


def test_an_amount_of_quote_has_the_decimals_of_its_asset() -> None:
    """IDR has two: 20,000.55 IDR are 2,000,055 units, and no more decimals are refused where zeros follow."""
    markets = currencies()

    def spent(text: str, symbol: str = "BTCIDR") -> int:
        return parse_order(
            Parameters({**QUOTE, "symbol": symbol, "quoteOrderQty": text}), markets
        ).quote_quantity

    assert spent("20000.55") == spent("20000.55000000") == 2_000_055
    assert spent("1000", "BTCJPY") == 1_000
    for text, symbol in (("20000.555", "BTCIDR"), ("1000.5", "BTCJPY"), ("5.000000001", "SHIBUSDT")):
        with pytest.raises(ApiError) as refused:
            spent(text, symbol)
        assert refused.value.code == -1111
    for text, symbol in (("15000.49", "BTCIDR"), ("999", "BTCJPY")):  # less than the least notional
        with pytest.raises(ApiError, match="NOTIONAL"):
            spent(text, symbol)


def test_the_least_notional_in_an_asset_of_two_decimals() -> None:
    """At 1,500,049,000 IDR 0.00001 BTC are 15,000.49 IDR, a hundredth less than the least.

    One tick more is 15,000.50.
    """
    values = {**LIMIT, "symbol": "BTCIDR", "quantity": "0.00001"}
    with pytest.raises(ApiError, match="NOTIONAL"):
        parse_order(Parameters({**values, "price": "1500049000"}), currencies())
    assert parse_order(Parameters({**values, "price": "1500050000"}), currencies()).price == 1_500_050


def test_strategies() -> None:
    named = {"strategyId": "0", "strategyType": "1000000"}
    assert parse_order(Parameters({**LIMIT, **named}), MARKETS).terms == OrderTerms(
        strategy_id=0, strategy_type=1_000_000
    )
    assert parse_order(Parameters({**LIMIT, "strategyId": "7"}), MARKETS).terms == OrderTerms(strategy_id=7)
    assert parse_order(Parameters(LIMIT), MARKETS).terms is None
