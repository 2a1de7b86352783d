"""The parameters `symbol`, `symbols` and `symbolStatus` that many market data functions share."""

from typing import Final

from functions.errors import ApiError, bad_combination
from functions.parameters import Parameters
from protocol.market import Market, MarketMap

TRADING: Final = "TRADING"
_STATUSES: Final = {"TRADING": True, "HALT": False, "BREAK": False}


def status_matches(parameters: Parameters) -> bool:
    """Return whether markets that trade, as all here do, are asked for."""
    matches = parameters.choice("symbolStatus", _STATUSES, _invalid_status)
    return True if matches is None else matches


def single_market(parameters: Parameters, markets: MarketMap) -> Market:
    """Return the market of `symbol`; -1220 when it has not the status asked for."""
    market = parameters.market(markets)
    if not status_matches(parameters):
        raise ApiError(-1220, "The symbol's status does not match the requested symbolStatus.")
    return market


def chosen_markets(parameters: Parameters, markets: MarketMap) -> tuple[list[Market], bool]:
    """Return the markets of `symbol`, `symbols` or all, and whether the answer is a single object."""
    if "symbol" in parameters and "symbols" in parameters:
        raise bad_combination()
    if "symbol" in parameters:
        return [single_market(parameters, markets)], True
    chosen = parameters.markets(markets)
    if not status_matches(parameters):
        return [], False
    return (list(markets.markets) if chosen is None else chosen), False


def _invalid_status() -> ApiError:
    return ApiError(-1122, "Invalid symbolStatus.")
