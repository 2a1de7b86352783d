"""Balances in the decimals of their assets, also of assets that nobody trades any more."""

import pytest

from functions.account.get_account import BalanceShape, balance_shape
from functions.api.errors import ApiError
from protocol.configuration import MarketConfig, MarketStatus, ShardConfig
from protocol.listing import Listing, ShardConfiguration
from protocol.orders import Balance
from protocol.stream_id import STREAM_START
from protocol.units import AssetUnits
from tests.support.currencies import currencies


def test_a_balance_of_a_delisted_market_keeps_its_decimals() -> None:
    """BTCIDR was the only market of IDR: 1,234,567 units of two decimals are 12,345.67."""
    configs = tuple(
        MarketConfig(market, 0, MarketStatus.DELISTED if market.symbol == "BTCIDR" else MarketStatus.TRADING)
        for market in currencies().markets
    )
    listing = Listing.of({0: ShardConfiguration(str(STREAM_START), ShardConfig(), configs)}, 1)
    assert "IDR" not in listing.listed.assets
    shape = balance_shape(listing.known, Balance("IDR", AssetUnits(1_234_567), AssetUnits(5)))
    assert shape == BalanceShape("IDR", "12345.67000000", "0.05000000")


def test_a_balance_whose_scale_no_shard_has_said_yet_is_not_guessed() -> None:
    with pytest.raises(ApiError) as refused:
        balance_shape(Listing.of({}, 1).known, Balance("IDR", AssetUnits(1), AssetUnits(0)))
    assert refused.value.status == 503
