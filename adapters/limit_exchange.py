"""Synchronizes a process's shares of limits with the pots in Redis.

All requests of one turn of the loop are sent together. Usage is reported every 80 ms, and every change of a
pot is published, so a process's view of a known bucket is at most 100 ms old. While Redis does not answer,
shares are borrowed.
"""

import asyncio
import hashlib
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

import hiredis
import redis.asyncio
import structlog

from adapters.metrics import LIMITS_ALONE, LIMITS_ASKED
from adapters.rate_limits import RateLimits
from adapters.redis_link import RedisLink, Reply, packed
from adapters.redis_links import RedisLinks
from adapters.shares import PART, Draw, Share, Word, reserve_of
from protocol import streams
from protocol.units import TimeMs
from runtime.listening import until
from runtime.redis_clients import RedisOutage
from runtime.redis_scripts import load_script
from runtime.tasks import end_tasks

_TELL_S: Final = 0.08
_BANS_S: Final = 0.15
_ANSWER_S_MAX: Final = 0.25
"""A Redis that takes longer counts as unreachable."""
_FIRST_S_MAX: Final = 0.5
_SHARES_PER_TURN: Final = 5_000
"""Maximum of shares in one report, so that it never takes long; the rest follows."""
_SHARES_PER_COMMAND: Final = 250
_PEER_S: Final = 60.0
"""A process that has been silent for this time no longer counts."""

_DRAW: Final = load_script("adapters", "draw_shares", PART=PART, RATE_WORDS=streams.RATE_WORDS)

_log = structlog.get_logger()

_Future = asyncio.Future[bool | None]


class _Ask(NamedTuple):
    """A request to one pot; nobody waits if there is no `met`."""

    share: Share
    needed: int
    met: _Future | None


class LimitExchange:
    """Synchronizes one process's limits with the other processes. Implements `adapters.rate_limits.Pots`.

    Counts are in the Redis for data that can be lost, bans in `log`, the durable Redis.
    """

    def __init__(
        self,
        limits: RateLimits,
        cache_url: str,
        shard_count: int,
        log: "redis.asyncio.Redis",
        now_ms: Callable[[], TimeMs],
    ) -> None:
        self._limits = limits
        self._log = log
        self._now_ms = now_ms
        self._name = secrets.token_hex(4)
        self._links = RedisLinks(cache_url, shard_count)
        self._words = RedisLink(cache_url, on_message=self._hear)
        self._words.subscribe(streams.RATE_WORDS)
        self._words.on_ready = limits.distrust
        self._loaded: set[RedisLink] = set()
        """The links whose servers have loaded the script."""
        self._digest = ""
        self._links.call_when_ready(self._loaded.clear)
        self._asks: dict[int, list[_Ask]] = defaultdict(list)
        self._peers: dict[bytes, float] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self.is_away = False
        self.outage = 0
        LIMITS_ALONE.set_function(lambda: self.is_away)

    @property
    def hears(self) -> bool:
        """Whether it receives every change."""
        return self._words.ready

    @property
    def processes(self) -> int:
        """The number of processes that share the limits, including this one, as far as known."""
        now_s = time.monotonic()
        self._peers = {name: heard_s for name, heard_s in self._peers.items() if now_s - heard_s < _PEER_S}
        return 1 + len(self._peers)

    async def start(self) -> None:
        """Start. Redis need not be reachable; if it is, it can be asked from now on."""
        if not self._limits.enabled:
            return
        self._limits.share_with(self)
        await self._words.start()
        await self._links.start()
        await until(self._are_ready, _FIRST_S_MAX)
        self._tasks = [asyncio.create_task(self._tell()), asyncio.create_task(self._exchange_bans())]

    async def close(self) -> None:
        """Return the remaining shares, and stop."""
        await end_tasks(self._tasks)
        if self._tasks and not self.is_away:
            self._hand_out(self._limits.shares(), leaves=True)
            await self._answered()
        await self._words.close()
        await self._links.close()

    def ask(self, share: Share, needed: int) -> _Future:
        """Request an amount: True, it was granted; False, it was not; None: the pots are unreachable."""
        LIMITS_ASKED.inc()
        met: _Future = self._loop.create_future()
        if not self._asks:
            self._loop.call_soon(self._send_asks)
        self._asks[share.place].append(_Ask(share, needed, met))
        return met

    def hand_back(self, share: Share) -> None:
        """Return the rest of a share at once."""
        if not self.is_away:
            self._send(share.place, [_Ask(share, 0, None)], leaves=True)

    def _are_ready(self) -> bool:
        return self.hears and all(link.ready for link in self._links.all())

    def _send_asks(self) -> None:
        asks, self._asks = self._asks, defaultdict(list)
        for place, some in asks.items():
            for start in range(0, len(some), _SHARES_PER_COMMAND):
                self._send(place, some[start : start + _SHARES_PER_COMMAND])

    def _hand_out(self, shares: Sequence[Share], *, leaves: bool = False) -> None:
        by_place: dict[int, list[_Ask]] = defaultdict(list)
        for share in shares:
            by_place[share.place].append(_Ask(share, 0, None))
        for place, some in by_place.items():
            for start in range(0, len(some), _SHARES_PER_COMMAND):
                self._send(
                    place, some[start : start + _SHARES_PER_COMMAND], tops_up=not leaves, leaves=leaves
                )

    def _send(self, place: int, asks: list[_Ask], *, tops_up: bool = False, leaves: bool = False) -> None:
        # Drawn when it is sent, not when it is asked for: from here on the next report no longer contains
        # these amounts, so each of them is reported once.
        draws = [ask.share.draw(ask.needed, tops_up=tops_up, leaves=leaves) for ask in asks]
        link = self._links.of(place)
        # A server that was restarted has forgotten the script: it answers NOSCRIPT and has executed nothing.
        is_loaded = link in self._loaded and self._digest
        parts: list[str | int] = ["EVALSHA", self._digest] if is_loaded else ["EVAL", _DRAW]
        parts += (len(asks), *(ask.share.key for ask in asks), self._name)
        for ask, draw in zip(asks, draws, strict=True):
            limit, used, returned, needed, wished = draw
            parts += (
                limit,
                reserve_of(limit),
                used,
                returned,
                needed,
                wished,
                self._limits.ttl_ms(ask.share),
            )
        timer: asyncio.TimerHandle | None = None
        is_over = False

        # Nobody knows whether an unanswered script was executed. What it may have granted counts as used: an
        # error in this direction never admits more than the limit (docs/decisions/0037).
        def fail() -> None:
            nonlocal is_over
            is_over = True
            for ask, draw in zip(asks, draws, strict=True):
                ask.share.not_answered(draw)
            self._fail(asks, "no answer in time")

        def on_reply(reply: Reply) -> None:
            if timer is not None:
                timer.cancel()
            if is_over:
                return  # the granted amount is lost
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                self._loaded.discard(link)
                self._not_sent(asks, draws)
                self._send(place, asks, tops_up=tops_up, leaves=leaves)
            elif isinstance(reply, Exception):
                for ask, draw in zip(asks, draws, strict=True):
                    ask.share.not_answered(draw)
                self._fail(asks, str(reply))
            else:
                self._note_loaded(link)
                self._answer(asks, draws, cast("list[int]", reply))

        try:
            link.send(packed(*parts), on_reply)
        except ConnectionError as error:
            self._not_sent(asks, draws)
            self._fail(asks, str(error))
            return
        # After the sending, which may raise: a timer of its own would then fail the same requests again.
        timer = self._loop.call_later(_ANSWER_S_MAX, fail)

    def _note_loaded(self, link: RedisLink) -> None:
        if link not in self._loaded:
            self._loaded.add(link)
            self._digest = self._digest or _digest(_DRAW)

    def _not_sent(self, asks: list[_Ask], draws: list[Draw]) -> None:
        for ask, draw in zip(asks, draws, strict=True):
            ask.share.not_sent(draw)

    def _answer(self, asks: list[_Ask], draws: list[Draw], reply: list[int]) -> None:
        for number, (ask, draw) in enumerate(zip(asks, draws, strict=True)):
            given, used, taken, version = reply[4 * number : 4 * number + 4]
            is_met = ask.share.answered(draw, given, Word(used, taken, version))
            if ask.met is not None and not ask.met.done():
                ask.met.set_result(is_met)
            elif ask.met is not None and is_met:
                ask.share.take_back(ask.needed)  # the waiting client has disconnected
            self._limits.wake(ask.share)

    def _fail(self, asks: list[_Ask], reason: str) -> None:
        if not self.is_away:
            self.is_away = True
            self.outage += 1
            _log.warning("limits are counted by this process alone", reason=reason, processes=self.processes)
        for ask in asks:
            if ask.met is not None and not ask.met.done():
                ask.met.set_result(None)
            self._limits.wake(ask.share)

    async def _tell(self) -> None:
        while True:
            if self.is_away:
                await self._look_whether_back()
            else:
                self._hand_out(self._limits.to_tell(self._now_ms(), _SHARES_PER_TURN))
            await asyncio.sleep(_TELL_S)

    async def _look_whether_back(self) -> None:
        if not self._are_ready():
            return
        if await self._answered():
            self.is_away = False
            self._limits.distrust()
            _log.info("limits are shared again")

    async def _answered(self) -> bool:
        """Return whether every server answers in time, after all previous reports."""
        answers: list[asyncio.Future[Reply]] = []
        for link in self._links.all():
            answer: asyncio.Future[Reply] = self._loop.create_future()
            try:
                link.send(
                    packed("PING"),
                    lambda reply, to=answer: None if to.done() else to.set_result(reply),  # type: ignore[misc]
                )
            except ConnectionError:
                return False
            answers.append(answer)
        _, late = await asyncio.wait(answers, timeout=_ANSWER_S_MAX)
        return not late and not any(isinstance(answer.result(), Exception) for answer in answers)

    async def _exchange_bans(self) -> None:
        while True:
            try:
                await self._limits.exchange_bans(self._log, self._now_ms())
            except RedisOutage as error:
                _log.debug("bans not exchanged", error=str(error))
            await asyncio.sleep(_BANS_S)

    def _hear(self, _channel: bytes, payload: bytes) -> None:
        name, *lines = payload.split(b"\n")
        if name == self._name.encode():
            return
        if name:
            self._peers[name] = time.monotonic()
        for line in lines:
            try:
                key, used, taken, version, wanted = line.decode().rsplit(" ", 4)
                word = Word(int(used), int(taken), int(version))
                self._limits.hear(key, word, is_wanted=wanted != "0")
            except ValueError:
                _log.warning("a word about a limit is not understood", word=line[:100])


def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
