"""The markets that a gateway knows: as the shards said them last, and never by asking while somebody
waits.
"""

from typing import cast

import pytest
import redis.asyncio

from adapters.markets import MarketWatch
from functions.api.errors import ApiError
from functions.api.market_choice import all_markets
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.market_data.get_exchange_info import get_exchange_info
from protocol import streams
from protocol.configuration import MarketConfig, MarketStatus, ShardConfig
from protocol.listing import Listing, ShardConfiguration, encode_configuration
from protocol.stream_id import STREAM_START
from protocol.units import TimeMs
from runtime.settings import Settings
from tests.support.market_log import market_map

BTC, ETH, SOL = market_map().markets


class Store:
    """The keys of two shards, each on a server of its own."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.away: set[str] = set()

    async def get(self, key: str) -> bytes | None:
        if key in self.away:
            raise redis.ConnectionError("away")
        return self.values.get(key)

    def say(self, shard: int, *configs: MarketConfig) -> None:
        value = encode_configuration(ShardConfiguration(str(STREAM_START), ShardConfig(), configs))
        self.values[streams.configuration(shard)] = value


class Exchange(Store):
    """Two shards, the first with BTCUSDT, the other with ETHUSDT."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = MarketWatch(cast("redis.asyncio.Redis", self), 2)
        self.settings = Settings(shard_count=2)

    @property
    def listing(self) -> Listing:
        return self.watch.listing()

    async def shown(self, **parameters: str) -> dict[str, str]:
        """The statuses in an answer of exchangeInfo."""
        ports = Ports(self.settings, self.watch.listing, *[None] * (len(Ports._fields) - 2))  # type: ignore[arg-type]
        answer = await get_exchange_info(ports, Call(Parameters(parameters), TimeMs(1)))
        return {each.symbol: each.status for each in answer.symbols}


@pytest.fixture
async def exchange() -> Exchange:
    made = Exchange()
    made.say(0, MarketConfig(BTC, 0))
    made.say(1, MarketConfig(ETH, 1))
    await made.watch.look()
    return made


async def code_of(exchange: Exchange, **parameters: str) -> int:
    with pytest.raises(ApiError) as refused:
        await exchange.shown(**parameters)
    return refused.value.code


async def test_what_shards_have_not_said_is_unavailable_and_not_unknown() -> None:
    exchange = Exchange()
    assert exchange.watch.why_not() == "shard 0 has not said yet which markets it has"
    exchange.say(0, MarketConfig(BTC, 0))
    await exchange.watch.look()
    assert exchange.watch.why_not() == "shard 1 has not said yet which markets it has"
    assert await exchange.shown(symbol="BTCUSDT") == {"BTCUSDT": "TRADING"}
    assert await code_of(exchange, symbol="ETHUSDT") == -1001
    assert await code_of(exchange) == -1001
    exchange.say(1, MarketConfig(ETH, 1))
    await exchange.watch.look()
    assert exchange.watch.why_not() is None
    assert await exchange.shown() == {"BTCUSDT": "TRADING", "ETHUSDT": "TRADING"}
    assert await code_of(exchange, symbol="NOSUCH") == -1121


async def test_a_market_is_listed_while_others_listen(exchange: Exchange) -> None:
    told: list[list[str]] = []
    exchange.watch.call_when_changed(lambda listing: told.append(list(listing.listed.by_symbol)))
    await exchange.watch.look()
    assert told == [["BTCUSDT", "ETHUSDT"]], "nothing has changed"
    exchange.say(0, MarketConfig(BTC, 0), MarketConfig(SOL, 0))
    await exchange.watch.look()
    assert told[1:] == [["BTCUSDT", "ETHUSDT", "SOLUSDT"]]
    assert exchange.listing.listed.shard_of_market("SOLUSDT") == 0


async def test_a_shard_that_cannot_be_read_keeps_its_markets(exchange: Exchange) -> None:
    exchange.away.add(streams.configuration(0))
    exchange.say(1, MarketConfig(ETH, 1), MarketConfig(SOL, 1))
    await exchange.watch.look()
    assert list(exchange.listing.listed.by_symbol) == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    exchange.away.clear()
    exchange.values[streams.configuration(0)] = b"\xc1"
    await exchange.watch.look()
    del exchange.values[streams.configuration(0)]
    await exchange.watch.look()
    assert list(exchange.listing.listed.by_symbol) == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (MarketStatus.TRADING, "TRADING"),
        (MarketStatus.HALTED, "HALT"),
        (MarketStatus.CANCEL_ONLY, "CANCEL_ONLY"),
        (MarketStatus.ANNOUNCED, "BREAK"),
        (MarketStatus.DELISTING, "BREAK"),
    ],
)
async def test_statuses_are_shown_and_filtered_by(
    exchange: Exchange, status: MarketStatus, shown: str
) -> None:
    exchange.say(0, MarketConfig(BTC, 0, status, 2))
    await exchange.watch.look()
    assert await exchange.shown() == {"BTCUSDT": shown, "ETHUSDT": "TRADING"}
    others = {"ETHUSDT"} if shown == "TRADING" else set()
    assert (await exchange.shown(symbolStatus=shown)).keys() == {"BTCUSDT"} | others
    assert await code_of(exchange, symbolStatus="PRE_TRADING") == -1122


async def test_a_delisted_market_is_gone_but_for_history(exchange: Exchange) -> None:
    exchange.say(0, MarketConfig(BTC, 0, MarketStatus.DELISTED, 3))
    await exchange.watch.look()
    assert await exchange.shown() == {"ETHUSDT": "TRADING"}
    assert await code_of(exchange, symbol="BTCUSDT") == -1121
    assert Parameters({"symbol": "BTCUSDT"}).market(exchange.listing.known) == BTC
    assert all_markets(exchange.listing.listed) == (ETH,)
