"""Subscribers of the exchange while it is broken: streams, accounts' events, and the shards' logs."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import aiohttp
import msgspec
import redis.asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from lab.chaos.evidence import Evidence
from lab.chaos.traders import Trader, edge_urls, signed_subscription
from lab.chaos.watching import MarketWatch, ReportWatch
from protocol import streams
from protocol.codec import decode_events
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD
from runtime.redis_clients import RedisOutage, asyncio_client
from runtime.settings import Settings
from runtime.tasks import end_tasks
from stream_log.redis_log import WAIT_MS

RECONNECT_S: Final = 0.2
OPEN_TIMEOUT_S: Final = 5.0
ENTRIES_PER_READ: Final = 500
LOOK_EVERY_S: Final = 0.05
SNAPSHOT_EVERY_S: Final = 0.3

_LEAVING: Final = "serverShutdown"

_decode: Final = msgspec.json.Decoder().decode


class Watchers:
    """The subscribers of market data, accounts and logs of a run, one task for each."""

    def __init__(self, settings: Settings, evidence: Evidence, traders: Sequence[Trader], count: int) -> None:
        """`count` subscribers of market data, and as many of accounts' events, which share the accounts."""
        self._settings = settings
        self._evidence = evidence
        self._tasks: list[asyncio.Task[None]] = []
        self.heard = dict.fromkeys(range(settings.shard_count), STREAM_START)
        """Shard -> up to where its log was followed."""
        symbols = list(evidence.markets.by_symbol)
        evidence.market_watches += [
            MarketWatch(f"subscriber {number}", symbols) for number in range(1, count + 1)
        ]
        evidence.report_watches += [ReportWatch(f"owner {number}") for number in range(1, count + 1)]
        self._owners = [traders[number::count] for number in range(count)]

    def start(self) -> None:
        """Start a task for each subscriber."""
        create = asyncio.create_task
        self._tasks = [
            *(create(self._follow_market(watch)) for watch in self._evidence.market_watches),
            *(
                create(self._follow_accounts(watch, owners))
                for watch, owners in zip(self._evidence.report_watches, self._owners, strict=True)
            ),
            *(create(self._follow_log(shard)) for shard in range(self._settings.shard_count)),
        ]

    def check(self) -> None:
        """Raise the error of a subscriber that has failed."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """End all subscribers."""
        await end_tasks(self._tasks)

    async def _follow_market(self, watch: MarketWatch) -> None:
        names = [
            f"{symbol.lower()}@{kind}"
            for symbol in watch.books
            for kind in ("depth@100ms", "trade", "kline_1s", "kline_1m")
        ]
        path = f"/stream?streams={'/'.join(names)}"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=OPEN_TIMEOUT_S)) as http:
            for edge in itertools.cycle(edge_urls(self._settings)):
                url = edge + path
                with suppress(OSError, WebSocketException, TimeoutError):
                    async with connect(
                        url, open_timeout=OPEN_TIMEOUT_S, close_timeout=1, max_queue=None
                    ) as socket:
                        watch.connected()
                        filling = asyncio.create_task(self._fill_books(http, watch))
                        try:
                            async for message in socket:
                                event = _decode(message)["data"]
                                if event["e"] != _LEAVING:
                                    watch.hear(event)
                        finally:
                            filling.cancel()
                await asyncio.sleep(RECONNECT_S)

    async def _fill_books(self, http: aiohttp.ClientSession, watch: MarketWatch) -> None:
        """Fetch the snapshots that the books of this connection begin from.

        Again where one turns out to be too old.
        """
        books = watch.books
        while True:
            for symbol, book in books.items():
                if book.update_id is None:
                    with suppress(aiohttp.ClientError, TimeoutError, KeyError, msgspec.MsgspecError):
                        url = f"{self._settings.rest_url()}/api/v3/depth?symbol={symbol}&limit=5000"
                        async with http.get(url) as response:
                            book.fill(_decode(await response.read()))
            await asyncio.sleep(SNAPSHOT_EVERY_S)

    async def _follow_accounts(self, watch: ReportWatch, owners: Sequence[Trader]) -> None:
        for edge in itertools.cycle(edge_urls(self._settings)):
            with suppress(OSError, WebSocketException, TimeoutError, _NotSubscribedError):
                url = f"{edge}/ws-api/v3"
                async with connect(
                    url, open_timeout=OPEN_TIMEOUT_S, close_timeout=1, max_queue=None
                ) as socket:
                    watch.connected()
                    accounts: dict[int, int] = {}
                    for number, owner in enumerate(owners):
                        request = {
                            "id": number,
                            "method": "userDataStream.subscribe.signature",
                            "params": signed_subscription(owner),
                        }
                        await socket.send(msgspec.json.encode(request).decode())
                    async for message in socket:
                        answer: dict[str, Any] = _decode(message)
                        if "subscriptionId" not in answer and "event" in answer:
                            continue  # the server is about to leave
                        if "event" in answer:
                            watch.hear(accounts[answer["subscriptionId"]], answer["event"])
                        elif answer["status"] != 200:
                            raise _NotSubscribedError
                        else:
                            accounts[answer["result"]["subscriptionId"]] = owners[answer["id"]].account_id
            await asyncio.sleep(RECONNECT_S)

    async def _follow_log(self, shard: int) -> None:
        watch, stream = self._evidence.stream, streams.events(shard)
        async with asyncio_client(self._settings.resolved_redis_url(), 1, OPEN_TIMEOUT_S) as client:
            while True:
                heard = self.heard[shard]
                try:
                    batches: Any = await client.xread({stream: str(heard)}, ENTRIES_PER_READ)
                    if batches and not await self._is_replicated(client, shard):
                        batches = []
                    if not batches and heard != STREAM_START:
                        await self._check_end(client, shard, heard)
                except RedisOutage:
                    batches = []
                for _, entries in batches:
                    for stream_id, fields in entries:
                        watch.hear(decode_events(fields[EVENTS_FIELD]))
                        self.heard[shard] = StreamId.parse(stream_id)
                if not batches:
                    await asyncio.sleep(LOOK_EVERY_S)

    async def _is_replicated(self, client: "redis.asyncio.Redis", shard: int) -> bool:
        """Return whether replicas have everything that this connection has read; the rest may be lost.

        Nobody was told of the rest, so a failover may lose it.
        """
        replicas = self._settings.redis_replicas_min
        if not replicas:
            return True
        await client.set(f"chaos:{{{shard}}}", "read")
        acknowledged: Any = await client.wait(replicas, WAIT_MS)
        return bool(acknowledged >= replicas)

    async def _check_end(self, client: "redis.asyncio.Redis", shard: int, heard: StreamId) -> None:
        newest: Any = await client.xrevrange(streams.events(shard), "+", "-", 1)
        end = StreamId.parse(newest[0][0]) if newest else STREAM_START
        if newest and end < heard:
            self._evidence.stream.went_back(shard, str(heard), str(end))
            self.heard[shard] = end


class _NotSubscribedError(Exception):
    """The exchange did not let us listen now."""
