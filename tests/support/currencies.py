"""An exchange for assets of eight, two and no decimals: its markets file, and what it describes."""

from pathlib import Path
from typing import Final

from protocol.market import MarketMap
from runtime.settings import markets_of

CURRENCIES_FILE: Final = Path(__file__).with_name("currencies.toml")


def currencies(shard_count: int = 1) -> MarketMap:
    """Return SHIBUSDT, PEPEUSDT, BTCIDR, BTCJPY and BTCUSDT."""
    return markets_of(CURRENCIES_FILE.read_text("utf-8"), shard_count, CURRENCIES_FILE.name)
