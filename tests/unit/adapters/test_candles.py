"""Of which candles the statistics of a window are made."""

from collections.abc import Mapping
from typing import Any, LiteralString

import pytest

from adapters.candles import PostgresCandles
from functions.repositories.candles import CandleSums
from protocol.units import TimeMs

HOUR_MS = 3_600_000
NINE = 1_641_286_800_000  # 2022-01-04 09:00:00 UTC


class Database:
    """Keeps what was asked, and answers with the sums of one market, which are of numeric type."""

    parameters: Mapping[str, object] | None = None

    async def fetch(
        self, _statement: LiteralString, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        self.parameters = parameters
        return [("BTCUSDT", *map(str, range(1, 10)))]


@pytest.mark.parametrize(
    ("opened", "hour"), [(NINE, NINE), (NINE + 60_000, NINE + HOUR_MS), (NINE + 3_540_000, NINE + HOUR_MS)]
)
async def test_whole_hours_come_from_candles_of_an_hour(opened: int, hour: int) -> None:
    database = Database()
    sums = await PostgresCandles(database).sums_since(["BTCUSDT", "ETHUSDT"], TimeMs(opened))
    assert sums == {"BTCUSDT": CandleSums(*range(1, 10))}
    assert database.parameters == {"markets": ["BTCUSDT", "ETHUSDT"], "open": opened, "hour": hour}
