"""What the tests of upgrades share: a folder that decides which release a process is of, and a watcher that
writes down what was so."""

import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import redis
from rich.console import Console
from typing_extensions import override

from cli.formats import read_readers, release_text
from cli.inquiries import connect, leader_of
from engine_worker.replay import ReplaySource
from lab.chaos import report
from lab.chaos.run import Result, Status
from protocol import streams
from protocol.codec import decode_events, format_of
from protocol.events import ShardConfigured
from protocol.release import Release, release_of
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD
from runtime.settings import Settings
from stream_log.interface import Entry
from tests.support.next_release import DepositsCounted, LaterDeposit

LOOK_EVERY_S = 0.2
ENTRIES_PER_READ = 1_000


class ReleaseFolder:
    """A folder for PYTHONPATH. What is in it when a process starts decides of which release the process is,
    as the checkout does that `git pull` has changed: with a `sitecustomize.py` it is of the planted next
    release, else of this one.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self._file = path / "sitecustomize.py"

    def become_next(self, careless_with: str = "") -> None:
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(
            f"from tests.support.next_release import plant\n\nplant({careless_with!r})\n", "utf-8"
        )
        unfinished.replace(self._file)

    def become_this(self) -> None:
        self._file.unlink()


class Sight(NamedTuple):
    """What processes announced at one moment."""

    leaders: dict[int, str]
    """Shard -> the process that leads it."""
    reads: dict[str, Release]
    """Process -> the release that it announced."""

    def pair(self, shard: int) -> tuple[Release, Release] | None:
        """Return the releases of a shard's leader and of its other engine worker.

        None when one of them is not heard.
        """
        leader = self.leaders.get(shard)
        other = next(
            (
                name
                for name in (f"engine-{shard}", f"engine-{shard}-standby-1")
                if name != leader and name in self.reads
            ),
            None,
        )
        return None if leader not in self.reads or other is None else (self.reads[leader], self.reads[other])


class ShardLog(ReplaySource):
    """What was in a shard's events, and the whole of its log: a `ReplaySource` of what Redis has trimmed
    meanwhile."""

    def __init__(self) -> None:
        self.inputs: list[Entry] = []
        self.outputs: list[Entry] = []
        self.switched: StreamId | None = None
        """The entry that switched the shard to the next release."""
        self.new_before: list[str] = []
        """What only the next release has, and stands before the switch."""
        self.new_after = 0
        self.formats: set[int] = set()

    @override
    def snapshots(self) -> list[bytes]:
        """None is needed to begin at the beginning."""
        return []

    @override
    def entries(self, after: StreamId, count: int) -> list[Entry]:
        return _after(self.inputs, after, count)

    @override
    def events(self, after: StreamId, count: int) -> list[Entry]:
        return _after(self.outputs, after, count)

    def hear(self, entry: Entry, newest: Release) -> None:
        stream_id, frame = entry.stream_id, entry.fields[EVENTS_FIELD]
        self.outputs.append(entry)
        number = format_of(frame)
        self.formats.add(number)
        told: list[Any] = list(decode_events(frame))
        for event in told:
            if (
                isinstance(event, ShardConfigured)
                and release_of(event.config) == newest
                and self.switched is None
            ):
                self.switched = stream_id
            if isinstance(event, DepositsCounted) or (isinstance(event, LaterDeposit) and event.note):
                if self.switched is None:
                    self.new_before.append(f"{stream_id} has {event}")
                else:
                    self.new_after += 1
        if number >= newest.format and self.switched is None:
            # The frame that tells of the switch is the first that has the new format.
            self.new_before.append(f"{stream_id} has format {number}")


def _after(entries: list[Entry], after: StreamId, count: int) -> list[Entry]:
    begin = bisect_right(entries, after, key=lambda entry: entry.stream_id)
    return entries[begin : begin + count]


class Observer:
    """Follows all shards' events and all heartbeats in a thread of its own; a context, which ends it."""

    def __init__(self, settings: Settings, newest: Release) -> None:
        self._settings = settings
        self._newest = newest
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer")
        self.sights: list[Sight] = []
        self.logs = {shard: ShardLog() for shard in range(settings.shard_count)}
        self.failure: BaseException | None = None

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with closing(connect(self._settings)) as client:
                while not self._stopping.wait(LOOK_EVERY_S):
                    try:
                        self._look(client)
                    except redis.RedisError:
                        continue
        except BaseException as error:
            self.failure = error
            raise

    def _look(self, client: redis.Redis) -> None:
        for shard, log in self.logs.items():
            log.inputs += _read(client, streams.commands(shard), log.inputs)
            for entry in _read(client, streams.events(shard), log.outputs):
                log.hear(entry, self._newest)
        reads = {
            each.name: each.reads for each in read_readers(client, self._settings) if each.reads is not None
        }
        leaders = {
            shard: leader.process for shard in self.logs if (leader := leader_of(self._settings, shard))
        }
        self.sights.append(Sight(leaders, reads))

    def pairs(self, shard: int) -> list[tuple[Release, Release]]:
        """Return the releases of a shard's leader and standby, in order, each once in a row."""
        found: list[tuple[Release, Release]] = []
        for sight in list(self.sights):
            pair = sight.pair(shard)
            if pair is not None and (not found or found[-1] != pair):
                found.append(pair)
        return found


def _read(client: redis.Redis, stream: str, known: list[Entry]) -> list[Entry]:
    after = known[-1].stream_id if known else STREAM_START
    found: Any = client.xread({stream: str(after)}, ENTRIES_PER_READ)
    return [
        Entry(stream, StreamId.parse(stream_id), fields)
        for _, entries in found or ()
        for stream_id, fields in entries
    ]


def say(text: str) -> None:
    """Print for whoever watches the test."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Teller:
    """Says each step of a run once."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._step = ""

    def __call__(self, status: Status) -> None:
        if status.step != self._step:
            self._step = status.step
            self.say(status.step)

    def say(self, text: str) -> None:
        say(f"{time.monotonic() - self._began:6.1f} s  {text}")


def broken(result: Result) -> dict[str, list[str]]:
    """Return the promises that were broken, or that were not looked at."""
    return {each.name: each.breaches for each in result.verdict.checks if not each.passed}


def tell(result: Result) -> None:
    """Print a run's result as `exchange chaos` does."""
    report.show(result, Console(file=sys.stdout, width=160))


def pairs_text(pairs: Iterable[tuple[Release, Release]]) -> str:
    return "; ".join(f"{release_text(leader)} leads {release_text(other)}" for leader, other in pairs)
