"""Parameters that many functions share: `symbol`, `symbols`, `symbolStatus`, assets.

Also the statuses of markets in Binance's words.
"""

from collections.abc import Iterable
from typing import Final

from functions.api.errors import ApiError, bad_combination, invalid_parameter, unavailable
from functions.api.parameters import Parameters
from functions.api.ports import Ports
from protocol.configuration import MarketStatus
from protocol.listing import Listing
from protocol.market import Market, MarketMap

_STATUSES: Final = {
    MarketStatus.TRADING: "TRADING",
    MarketStatus.HALTED: "HALT",
    MarketStatus.CANCEL_ONLY: "CANCEL_ONLY",
    MarketStatus.ANNOUNCED: "BREAK",
    MarketStatus.DELISTING: "BREAK",
    MarketStatus.DELISTED: "BREAK",
}
MARKET_STATUSES: Final = frozenset(_STATUSES.values())
_WANTED: Final = {name: name for name in MARKET_STATUSES}


def shown_status(listing: Listing, market: Market) -> str:
    """Return a market's status in Binance's words; some of our statuses have no equivalent."""
    return _STATUSES[listing.statuses[market.symbol]]


def all_markets(markets: MarketMap) -> tuple[Market, ...]:
    """Return all markets.

    Raises:
        ApiError: unavailable, some shard has not published its configuration yet.
    """
    if markets.unknown_shards:
        raise unavailable()
    return markets.markets


def wanted_status(parameters: Parameters) -> str | None:
    """Return the status in `symbolStatus`; None: every status."""
    return parameters.choice("symbolStatus", _WANTED, _invalid_status)


def with_status(listing: Listing, markets: Iterable[Market], status: str | None) -> list[Market]:
    """Return the `markets` with this status; None: all of them."""
    return [market for market in markets if status is None or shown_status(listing, market) == status]


def single_market(parameters: Parameters, ports: Ports) -> Market:
    """Return the market of `symbol`; -1220 if it does not have the requested status."""
    listing = ports.listing()
    market = parameters.market(listing.listed)
    if not with_status(listing, [market], wanted_status(parameters)):
        raise ApiError(-1220, "The symbol's status does not match the requested symbolStatus.")
    return market


def chosen_markets(parameters: Parameters, ports: Ports) -> tuple[list[Market], bool]:
    """Return the markets of `symbol`, `symbols` or all, and whether the answer is a single object.

    Of several markets, those without the requested status are omitted.
    """
    if "symbol" in parameters and "symbols" in parameters:
        raise bad_combination()
    if "symbol" in parameters:
        return [single_market(parameters, ports)], True
    listing = ports.listing()
    chosen = parameters.markets(listing.listed)
    markets = all_markets(listing.listed) if chosen is None else chosen
    return with_status(listing, markets, wanted_status(parameters)), False


def asset_wanted(ports: Ports, parameters: Parameters, name: str) -> str | None:
    """Return the asset that a parameter names; None if it was not sent.

    Raises:
        ApiError: -1130 for an asset that does not exist; unavailable while some shard has not published its
            configuration.
    """
    asset = parameters.optional(name)
    markets = ports.known_markets
    if asset is not None and asset not in markets.by_asset:
        raise unavailable() if markets.unknown_shards else invalid_parameter(name)
    return asset


def _invalid_status() -> ApiError:
    return ApiError(-1122, "Invalid symbolStatus.")
