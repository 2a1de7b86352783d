"""Random trading through real workers: commands in, committed, everything where a running exchange has it."""

from engine_worker.core.snapshot import encode_snapshot
from engine_worker.worker import Worker
from protocol import streams
from protocol.codec import decode_events, encode_frame
from protocol.commands import Command
from protocol.configuration import ShardConfig
from protocol.events import DepthChanged, Event, TradeExecuted
from protocol.market import MarketMap
from protocol.orders import Side
from protocol.stream_id import STREAM_START
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD
from protocol.windows import Windows
from stream_log.interface import StreamLog
from tests.support.shard_log import ShardLog

WINDOWS = Windows(request_ms=200)
"""Short, so that requests are forgotten."""


class WorkedLog(ShardLog):
    """As `ShardLog`, but every batch is an entry of the account's shard's input, and workers commit what
    comes of it."""

    def __init__(
        self,
        log: StreamLog,
        seed: int,
        market_map: MarketMap,
        start_ms: int = 1_767_225_500_000,
        accounts: int = 10,
    ) -> None:
        self.log = log
        self.workers = [
            Worker(log, index, market_map, batch_entries_max=50, config=ShardConfig(windows=WINDOWS))
            for index in range(market_map.shard_count)
        ]
        self._read = dict.fromkeys(range(market_map.shard_count), STREAM_START)
        for worker in self.workers:
            worker.start()
        super().__init__(seed, market_map, start_ms, accounts)
        self.work()

    def give(self, *commands: Command) -> None:
        """Give these commands, an entry each."""
        for command in commands:
            self._apply([command])

    def give_together(self, *commands: Command) -> None:
        """Give these commands, which are for one shard, in one entry."""
        self._apply(list(commands))

    def restart(self) -> None:
        """Start new workers on what the log has."""
        for worker in self.workers:
            worker.start()

    def save_snapshots(self) -> None:
        for index, worker in enumerate(self.workers):
            self.log.save_snapshot(index, encode_snapshot(worker.shard, worker.position.stream_id))

    def _waits(self, shard: int, worker: Worker) -> bool:
        """Whether there is input.

        A worker without any waits for some, and Redis does not count single milliseconds.
        """
        return self.log.last_id(streams.commands(shard)) > worker.position.stream_id

    def enqueue(self, commands: int) -> None:
        """Give random commands that no worker has looked at yet."""
        for _ in range(commands):
            self._append([self._command()])

    def _apply(self, commands: list[Command]) -> None:
        self._append(commands)
        self.work()

    def _append(self, commands: list[Command]) -> None:
        by_shard: dict[int, list[Command]] = {}
        for command in commands:
            by_shard.setdefault(self.market_map.shard_of_account(command.account_id), []).append(command)
        for shard, found in by_shard.items():
            self.log.append(streams.commands(shard), {COMMANDS_FIELD: encode_frame(found)})

    def work(self) -> None:
        """Let the workers finish whatever is in their inputs."""
        while waiting := [worker for shard, worker in enumerate(self.workers) if self._waits(shard, worker)]:
            for worker in waiting:
                worker.step(block_ms=1)
        for shard, read in self._read.items():
            for entry in self.log.read({streams.events(shard): read}, 10_000, 0):
                happened = decode_events(entry.fields[EVENTS_FIELD])
                self.entries.append((shard, entry.stream_id, happened))
                self.note(happened)
                self._read[shard] = entry.stream_id


def book_by_events(
    happened: list[Event], symbol: str, sequence: int
) -> tuple[dict[int, int], dict[int, int]]:
    """The bids and asks that the published depth changes up to `sequence` add up to."""
    sides: dict[Side, dict[int, int]] = {Side.BUY: {}, Side.SELL: {}}
    for event in happened:
        if isinstance(event, DepthChanged) and event.market == symbol and event.sequence <= sequence:
            for change in event.changes:
                if change.quantity:
                    sides[change.side][change.price] = change.quantity
                else:
                    sides[change.side].pop(change.price, None)
    return sides[Side.BUY], sides[Side.SELL]


def last_sequence(happened: list[Event], symbol: str) -> int:
    return max(
        (
            event.sequence
            for event in happened
            if isinstance(event, TradeExecuted | DepthChanged) and event.market == symbol
        ),
        default=0,
    )
