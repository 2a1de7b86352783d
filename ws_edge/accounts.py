"""Accounts' own streams: every event once and in order, also after an outage of Redis.

Feeds publish an account's events with the log position that they reach up to. Once a second the position that
feeds have published is noted, with a PING behind it on the listening connection: when the PONG is back,
everything up to there was heard. After a lost connection feeds are asked to repeat what is missing, from the
last position known to be heard up to what they have published by then (feeds/missed_events.py). So it is when
a replica of Redis that did not know of the newest portions became the master: feeds publish these again, cut
elsewhere.
"""

import asyncio
import itertools
import secrets
from collections import defaultdict
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import redis.asyncio
import structlog
from websockets.frames import CloseCode

from adapters.redis_link import RedisLink, packed
from adapters.redis_links import RedisLinks
from adapters.revocations import RevocationWatch
from functions.api.errors import unavailable
from functions.users.revocations import Revocation
from protocol import streams
from protocol.codec import decode_readable_events
from protocol.decoding import msgpack_decoder
from protocol.events import (
    DepthChanged,
    Event,
    FundsDeposited,
    FundsWithdrawn,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    ShardEvent,
    TradeExecuted,
)
from protocol.listing import Listing
from protocol.market import MarketMap
from protocol.market_data import AccountUpdate, Repeated, RepeatRequest
from protocol.stream_id import STREAM_START, StreamId
from protocol.units import AccountId, TimeMs
from runtime.redis_clients import RedisOutage
from runtime.tasks import end_tasks
from ws_edge import payloads
from ws_edge.catch_up import CatchUp, Portion
from ws_edge.conflation import text_frame
from ws_edge.connection import EdgeConnection

# A union made anew for every event costs as much again as looking at it.
_OfNoAccount = TradeExecuted | DepthChanged | ShardEvent
_OfOrder = OrderAccepted | OrderFilled | OrderClosed
_CAUGHT_UP_AT_ONCE: Final = 1_000
"""Accounts that are caught up before everything else has a turn."""
_SUBSCRIBE_S: Final = 3.0
_RETRY_S: Final = 0.2
_REPEAT_S: Final = 2.0
"""How long the next part of an answer of feeds may take; then they are asked again."""
_HELD_MAX: Final = 10_000
"""Events that wait for one subscription until revocations were looked at."""
_MARKET_AWAITED_MS: Final = 10_000
"""How long events wait for the market that they are about; the listing is looked at every second."""

_ACCOUNT: Final = streams.account(0).encode()[:-1]
_REPEATED: Final = streams.repeated("", 0).encode().partition(b":")[0] + b":"

_decode_update = msgpack_decoder(AccountUpdate)
_decode_repeated = msgpack_decoder(Repeated)
_encode: Final = msgspec.json.Encoder().encode
_log = structlog.get_logger()


class Standing(NamedTuple):
    """What a subscription stands on, and falls with."""

    credential: str
    """See functions/users/revocations.py; empty: anything of the account."""
    end: Callable[[], None]
    """Removes the subscription, and tells its client."""
    until_ms: int = 0
    """When it ends by itself (ms); 0: never."""


class AccountSubscription:
    """One connection's wish to hear of an account; every event is written between `prefix` and `suffix`.

    Nothing is sent unless revocations were looked at within the last second: what a process that stood still
    finds when it goes on waits until they were.
    """

    def __init__(
        self,
        account_id: AccountId,
        connection: EdgeConnection,
        standing: Standing,
        revocations: RevocationWatch,
        prefix: bytes = b"",
        suffix: bytes = b"",
    ) -> None:
        self.account_id = account_id
        self.is_counted = False
        """Whether it is among the streams of its connection's network."""
        self.connection = self._connection = connection
        self._standing = standing
        self._revocations = revocations
        self._prefix, self._suffix = prefix, suffix
        self._held: list[bytes] = []
        self._is_over = False

    def send(self, payload: payloads.Payload, now: TimeMs) -> None:
        """Send one event, as soon as it is sure that it may be."""
        if self._standing.until_ms and now >= self._standing.until_ms:
            self._standing.end()
        if self._is_over:
            return
        if self._held or not self._revocations.is_fresh():
            self._hold(self._frame(payload))
        else:
            self._connection.deliver_frame(self._frame(payload))

    def wrap(self, prefix: bytes, suffix: bytes) -> None:
        """Write every event between these from now on."""
        self._prefix, self._suffix = prefix, suffix

    def tell(self, payload: payloads.Payload) -> None:
        """Say what is no secret."""
        self._connection.deliver_frame(self._frame(payload))

    def falls_with(self, revoked: Revocation) -> bool:
        """Return whether it ends with what was revoked of its account."""
        return self._standing.credential in ("", revoked.credential)

    def end(self) -> None:
        """Have it removed, and its client told."""
        self._standing.end()

    def leave(self) -> None:
        """Send nothing more."""
        self._is_over = True
        self._held = []

    def give_up(self) -> None:
        """End the connection: events are missing that cannot be read any more."""
        self._connection.close_soon(
            CloseCode.SERVICE_RESTART, "events were missed; connect again and ask for orders"
        )

    def _frame(self, payload: payloads.Payload) -> bytes:
        if self._connection.form[1] != 1:
            payload = payloads.in_microseconds(payload)
        return text_frame(self._prefix + _encode(payload) + self._suffix)

    def _hold(self, frame: bytes) -> None:
        if not self._held:
            self._revocations.call_when_looked(self._release)
        self._held.append(frame)
        if len(self._held) > _HELD_MAX:
            self.leave()
            self.give_up()

    def _release(self) -> None:
        if self._is_over:
            return
        if not self._revocations.is_fresh():
            self._revocations.call_when_looked(self._release)
            return
        held, self._held = self._held, []
        for frame in held:
            self._connection.deliver_frame(frame)


class _Account(CatchUp):
    """An account that somebody listens to."""

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions: dict[AccountSubscription, None] = {}
        self.joining: dict[AccountSubscription, None] = {}
        """Subscriptions that were added, and hear nothing yet.

        As long as there is one, the channel stays subscribed to.
        """


class AccountStreams:
    """All accounts that connections of this process listen to."""

    def __init__(
        self,
        listing: Callable[[], Listing],
        links: RedisLinks,
        cache: "redis.asyncio.Redis",
        now_ms: Callable[[], TimeMs],
        count_stream: Callable[[EdgeConnection, int], None] = lambda _connection, _change: None,
    ) -> None:
        """Hear through `links`, which are not started yet, and ask feeds through `cache`.

        `count_stream` hears of each stream that a connection opens (1) or closes (-1).
        """
        self._count_stream = count_stream
        self._listing = listing
        self._links = links
        self._cache = cache
        self._now_ms = now_ms
        self._accounts: dict[AccountId, _Account] = {}
        self._repair: asyncio.Task[None] | None = None
        self._request_ids = itertools.count(1)
        self._answers: dict[int, asyncio.Queue[Repeated]] = {}
        """Request to the feeds -> the parts of its answer that came so far."""
        self._reply_to = secrets.token_hex(8)
        for shard in range(links.shard_count):
            links.of(shard).subscribe(self._repeated(shard))
        self._reconnections = 0
        self._awaited: dict[str, int] = {}
        """Market that is not known -> until when (ms) what is said of it waits."""

    async def add(self, subscription: AccountSubscription) -> None:
        """Listen to an account, once its channel is sure to be heard; `activate` then lets events through.

        Raises:
            ApiError: unavailable, Redis is away; `remove` has still to be called.
        """
        account_id = subscription.account_id
        account = self._accounts.setdefault(account_id, _Account())
        account.joining[subscription] = None
        if not subscription.is_counted:
            subscription.is_counted = True
            self._count_stream(subscription.connection, 1)
        if account.heard is not None:
            return
        try:
            async with asyncio.timeout(_SUBSCRIBE_S):
                link = self._link(account_id)
                published = await self._published(self._shard_of(account_id))
                stands: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                link.subscribe(
                    streams.account(account_id),
                    lambda reply: None if stands.done() else stands.set_result(reply),
                )
                if not link.ready or isinstance(await stands, Exception):
                    raise unavailable()
        except (TimeoutError, *RedisOutage) as error:
            raise unavailable() from error
        account.move_to(published)

    def activate(self, subscription: AccountSubscription) -> None:
        """Let events through from now on, unless it was removed meanwhile."""
        account = self._accounts.get(subscription.account_id)
        if account is not None and subscription in account.joining:
            del account.joining[subscription]
            account.subscriptions[subscription] = None

    def remove(self, subscription: AccountSubscription) -> None:
        """Listen no more."""
        if subscription.is_counted:
            subscription.is_counted = False
            self._count_stream(subscription.connection, -1)
        account = self._accounts.get(subscription.account_id)
        if account is None:
            return
        subscription.leave()
        account.subscriptions.pop(subscription, None)
        account.joining.pop(subscription, None)
        if not account.subscriptions and not account.joining:
            del self._accounts[subscription.account_id]
            self._link(subscription.account_id).unsubscribe(streams.account(subscription.account_id))

    def revoke(self, revoked: Revocation) -> None:
        """End what stands on a credential that is good no more."""
        account = self._accounts.get(revoked.account_id)
        if account is not None:
            for subscription in [
                subscription
                for subscription in (*account.subscriptions, *account.joining)
                if subscription.falls_with(revoked)
            ]:
                subscription.end()

    def distrust(self) -> None:
        """End everything: credentials may have been revoked without this process hearing of it."""
        for account in list(self._accounts.values()):
            for subscription in (*account.subscriptions, *account.joining):
                subscription.leave()
                subscription.give_up()

    def hear(self, channel: bytes, payload: bytes) -> bool:
        """Take one message; return whether its channel is an account's, or that of the feeds' answers."""
        if channel.startswith(_ACCOUNT):
            self._hear_update(payload)
        elif channel.startswith(_REPEATED):
            self._hear_repeated(payload)
        else:
            return False
        return True

    def _hear_repeated(self, payload: bytes) -> None:
        try:
            part = _decode_repeated(payload)
        except msgspec.MsgspecError as error:
            _log.warning("repeated events not understood", error=str(error))
            return
        # Feeds answer late what was asked again meanwhile.
        if part.request_id in self._answers:
            self._answers[part.request_id].put_nowait(part)

    def _hear_update(self, payload: bytes) -> None:
        try:
            update = _decode_update(payload)
            events = decode_readable_events(bytes(update.events))
        except msgspec.MsgspecError as error:
            _log.warning("account update not understood", error=str(error))
            return
        account = self._accounts.get(update.account_id)
        if account is None:
            return
        position = StreamId.parse(update.position)
        portion = Portion(StreamId.parse(update.after) if update.after else position, position, events)
        # Channels are subscribed to again one by one: a portion that comes before all are must not hide what
        # was missed.
        if account.is_behind or not self._link(update.account_id).ready:
            account.put_aside(portion)
        elif self._awaits_market(events) or (new := account.take(portion)) is None:
            account.fall_behind(portion)
            self._repair_soon()
        else:
            self._tell(account, new)

    def reconnected(self) -> None:
        """Read what was missed while the connection was lost; until then, what is heard waits."""
        self._reconnections += 1
        for account in self._accounts.values():
            account.interrupted()
        self._repair_soon()

    async def mark(self) -> None:
        """Note up to where everything was heard."""
        by_shard = defaultdict[int, list[_Account]](list)
        for account_id, account in self._accounts.items():
            if account.heard is not None and not account.is_behind:
                by_shard[self._shard_of(account_id)].append(account)
        for shard, accounts in by_shard.items():
            published = await self._published(shard)
            try:
                self._links.of(shard).send(
                    packed("PING"),
                    lambda reply, p=published, a=accounts: _note(reply, p, a),  # type: ignore[misc]
                )
            except ConnectionError:
                continue

    async def close(self) -> None:
        """Stop."""
        if self._repair is not None:
            await end_tasks([self._repair])

    def _awaits_market(self, events: list[Event]) -> bool:
        """Return whether events are about a market listed a moment ago, or its asset, still unknown here."""
        markets, now = self._listing().known, self._now_ms()
        return any(
            now < self._awaited.setdefault(name, now + _MARKET_AWAITED_MS)
            for event in events
            for name in _unknown(event, markets)
        )

    def _repair_soon(self) -> None:
        if self._repair is None or self._repair.done():
            self._repair = asyncio.create_task(self._catch_up())

    def _shard_of(self, account_id: AccountId) -> int:
        return self._listing().known.shard_of_account(account_id)

    def _link(self, account_id: AccountId) -> RedisLink:
        return self._links.of(self._shard_of(account_id))

    async def _published(self, shard: int) -> StreamId:
        value = await self._cache.hget(streams.feeds_state(shard), "published_id")
        return StreamId.parse(value) if isinstance(value, bytes) else STREAM_START

    async def _catch_up(self) -> None:
        while behind := {
            account_id: account for account_id, account in self._accounts.items() if account.is_behind
        }:
            by_shard = defaultdict[int, dict[AccountId, _Account]](dict)
            for account_id, account in behind.items():
                by_shard[self._shard_of(account_id)][account_id] = account
            try:
                if not all(self._links.of(shard).ready for shard in by_shard):
                    await asyncio.sleep(_RETRY_S)
                for shard, accounts in by_shard.items():
                    await self._catch_up_shard(shard, accounts)
                if any(account.is_behind for account in behind.values()):
                    await asyncio.sleep(_RETRY_S)
            except RedisOutage as error:
                _log.warning("accounts are behind", error=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _catch_up_shard(self, shard: int, accounts: dict[AccountId, _Account]) -> None:
        reconnections = self._reconnections
        try:
            missed, published, problem = await self._ask_for(shard, accounts)
        except TimeoutError as error:
            _log.warning("accounts are behind: no answer from the feeds", shard=shard, reason=str(error))
            return
        if problem:
            self._give_up(shard, accounts, published, problem)
            return
        for number, (account_id, account) in enumerate(accounts.items()):
            if number % _CAUGHT_UP_AT_ONCE == 0:
                await asyncio.sleep(0)
                if reconnections != self._reconnections or not self._links.of(shard).ready:
                    # More may have been missed meanwhile; the remaining accounts are caught up later.
                    return
            waiting = [event for portion in account.waiting for event in portion.events]
            if self._awaits_market(missed.get(account_id, []) + waiting):
                continue
            self._tell(account, account.caught_up(missed.get(account_id, ()), published))

    async def _ask_for(
        self, shard: int, accounts: dict[AccountId, _Account]
    ) -> tuple[dict[AccountId, list[Event]], StreamId, str]:
        """Ask a shard's feeds what accounts have missed.

        Return it, the position that it reaches up to, and why it cannot be had, if so.

        Raises:
            TimeoutError: they do not answer.
        """
        request_id = next(self._request_ids)
        heard = [(account_id, str(account.heard or STREAM_START)) for account_id, account in accounts.items()]
        request = RepeatRequest(request_id, self._repeated(shard), heard)
        parts = self._answers[request_id] = asyncio.Queue()
        missed = defaultdict[AccountId, list[Event]](list)
        try:
            hearers = await self._cache.publish(streams.repeat(shard), msgspec.msgpack.encode(request))
            # On a cluster only those are counted that hear it from the node that was told.
            if not hearers and not self._links.are_several:
                raise TimeoutError("they are cut off, too")
            while True:
                part = await asyncio.wait_for(parts.get(), _REPEAT_S)
                for account_id, events in part.accounts:
                    missed[account_id] += decode_readable_events(bytes(events))
                if part.is_last:
                    return missed, StreamId.parse(part.position), part.problem
        finally:
            del self._answers[request_id]

    def _repeated(self, shard: int) -> str:
        return streams.repeated(self._reply_to, shard)

    def _give_up(
        self, shard: int, accounts: dict[AccountId, _Account], published: StreamId, reason: str
    ) -> None:
        _log.error("account events are missing", shard=shard, reason=reason)
        for account in accounts.values():
            for subscription in (*account.subscriptions, *account.joining):
                subscription.give_up()
            account.give_up(published)

    def _tell(self, account: _Account, events: list[Event]) -> None:
        now, markets = self._now_ms(), self._listing().known
        for event in events:
            if isinstance(event, _OfNoAccount):
                continue
            if unknown := _unknown(event, markets):
                _log.error("account event of an unknown market", market=unknown[0])
                continue
            for payload in payloads.account_events(markets, event, now):
                for subscription in list(account.subscriptions):
                    subscription.send(payload, now)


def _unknown(event: Event, markets: MarketMap) -> list[str]:
    """Return the market of an account's event, or the assets of its balances, that `markets` lacks."""
    if isinstance(event, _OfNoAccount):
        return []
    if isinstance(event, _OfOrder) and event.order.market not in markets.by_symbol:
        return [event.order.market]
    assets = [balance.asset for balance in event.balances]
    if isinstance(event, FundsDeposited | FundsWithdrawn):
        assets.append(event.asset)
    return [asset for asset in assets if asset not in markets.by_asset]


def _note(reply: object, published: StreamId, accounts: list[_Account]) -> None:
    if isinstance(reply, Exception):
        return
    for account in accounts:
        if account.heard is not None and not account.is_behind:
            account.move_to(published)
