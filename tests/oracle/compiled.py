"""Drives the compiled core as one exchange, through its frames; the same as driver.py does with objects."""

from collections import deque

import msgspec

from engine_worker.core.shard import Shard
from engine_worker.core.snapshot import decode_snapshot
from engine_worker.cores import COMPILED, CORES
from engine_worker.first_configuration import first_configuration
from engine_worker.frame_core import FrameCore
from protocol.codec import decode_events, decode_replies, encode_commands, encode_frame
from protocol.commands import Command, ConfigCommand, OperatorCommand, WithdrawFees
from protocol.configuration import ShardConfig
from protocol.events import OrderClosed, OrderFilled
from protocol.market import MarketMap
from protocol.replies import AuditQuery, AuditReply, Query, Reply
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, TimeMs
from protocol.windows import DEFAULT_WINDOWS, Windows
from tests.oracle.driver import Engine, Produced

CONFIGURED_MS = 1


class CompiledEngine(Engine):
    """The shards of one exchange on the compiled core, each entry a frame of its own."""

    def __init__(
        self, market_map: MarketMap, windows: Windows = DEFAULT_WINDOWS, open_orders_max: int = 0
    ) -> None:
        # Not the base's, which starts shards of objects.
        self.market_map, self.windows, self.closed = market_map, windows, {}
        self._entries = 0
        self._frames: dict[tuple[int, int], deque[bytes]] = {}
        self._seen: dict[int, tuple[int, Shard]] = {}
        self.cores = [
            CORES[COMPILED].new(index, market_map.shard_count) for index in range(market_map.shard_count)
        ]
        config = ShardConfig(windows=windows, open_orders_max=open_orders_max)
        for index, core in enumerate(self.cores):
            self._enter(core, first_configuration(index, market_map, config), CONFIGURED_MS)
            self._take(index, Produced())
        self._deliver(CONFIGURED_MS, Produced())

    def _enter(
        self, core: FrameCore, commands: "list[ConfigCommand] | list[Command | OperatorCommand]", time: int
    ) -> None:
        self._entries += 1
        frame = encode_commands(commands, time * 1_000)
        dead = core.apply_frame(StreamId(time, self._entries), {COMMANDS_FIELD: frame})
        assert not dead, dead

    def apply(self, command: Command | OperatorCommand, time: int) -> Produced:
        produced = Produced()
        self.submit(command, time, produced)
        self._deliver(time, produced)
        return produced

    def _deliver(self, time: int, produced: Produced) -> None:
        while self._frames:
            way = min(self._frames)
            frame = self._frames[way].popleft()
            if not self._frames[way]:
                del self._frames[way]
            self._entries += 1
            self.cores[way[1]].apply_frame(StreamId(time, self._entries), {MESSAGES_FIELD: frame})
            self._take(way[1], produced)

    def submit(self, command: Command | OperatorCommand, time: int, produced: Produced) -> None:
        shard_of = self.market_map.shard_of_account
        source = command.shard if isinstance(command, WithdrawFees) else shard_of(command.account_id)
        self._enter(self.cores[source], [command], time)
        self._take(source, produced)

    def _take(self, source: int, produced: Produced) -> None:
        output = self.cores[source].take()
        for reply_to, frame in output.replies():
            produced.replies += [(reply_to, reply) for reply in decode_replies(frame)]
        events = decode_events(output.frame) if output.frame else []
        produced.events += events
        for event in events:
            if isinstance(event, OrderClosed | OrderFilled) and not event.order.status.is_open:
                self.closed[event.order.order_id] = event.order
        closed = [order.order_id for order in output.closed_orders()]
        assert closed == [
            event.order.order_id
            for event in events
            if isinstance(event, OrderClosed | OrderFilled) and not event.order.status.is_open
        ]
        for target, frame in output.outbox().items():
            self._frames.setdefault((source, target), deque()).append(frame)

    @property
    def shards(self) -> list[Shard]:  # type: ignore[override]
        """The shards as their snapshots tell them."""
        return [self._seen_in(index) for index in range(len(self.cores))]

    def _seen_in(self, index: int) -> Shard:
        core = self.cores[index]
        if index not in self._seen or self._seen[index][0] != core.command_count:
            shard, _ = decode_snapshot(core.encode_snapshot(STREAM_START))
            self._seen[index] = core.command_count, shard
        return self._seen[index][1]

    def restart(self) -> None:
        """Replace every shard by what its snapshot restores, here or by the objects."""
        self.cores = [CORES[COMPILED].restore(core.encode_snapshot(STREAM_START))[0] for core in self.cores]
        self._seen.clear()

    def check_invariants(self) -> None:
        for core in self.cores:
            core.check_invariants()

    def audit(self) -> list[AuditReply]:
        replies = [self._answer(core, AuditQuery(1, "test")) for core in self.cores]
        assert all(isinstance(reply, AuditReply) for reply in replies)
        return [reply for reply in replies if isinstance(reply, AuditReply)]

    def _ask(self, query: Query, account_id: int) -> Reply:
        return self._answer(self.cores[self.market_map.shard_of_account(AccountId(account_id))], query)

    @staticmethod
    def _answer(core: FrameCore, query: Query) -> Reply:
        (answer,) = core.answer(encode_frame([query]), TimeMs(0), STREAM_START)
        (reply,) = decode_replies(encode_frame([msgspec.Raw(answer.reply)]))
        return reply
