"""Messages between shards on different nodes of a Redis Cluster, over engines that are killed between commit
and delivery."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import streams
from protocol.codec import decode_messages, decode_replies, encode_frame
from protocol.replies import AuditQuery, AuditReply
from protocol.stream_id import STREAM_START
from protocol.streams import ARCHIVE_READER, COMMANDS_FIELD, MESSAGES_FIELD, QUERIES_FIELD
from runtime import redis_clients
from runtime.settings import PREFIX
from stream_log.redis_log import RedisStreamLog
from tests.support.eventually import eventually
from tests.support.redis_servers import RedisServers
from tests.support.treasury import signed
from tests.support.workers import check_contiguous, deposits, events_of, trading

SHARDS = range(3)
DEATHS = 6
QUIET_S = 240
COMMANDS = 150


class DyingEngines:
    """The engines of all shards.

    Each is started anew when it dies, and after `DEATHS` deaths none dies any more.
    """

    def __init__(self, url: str, folder: Path, *, broken_dedup: bool) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        own = {
            "DATA_DIR": str(folder),
            "REDIS_URL": url,
            "SHARD_COUNT": str(len(SHARDS)),
            "BATCH_COMMANDS_MAX": "3",
        }
        own |= {"LOG_LEVEL": "error", "LOST_TAIL_CHECK_ENABLED": "false", "SNAPSHOT_INTERVAL_S": "1"}
        self._environment = {
            **inherited,
            **{PREFIX + name: value for name, value in own.items()},
            # It is broken in the objects.
            **({"BROKEN_DEDUP": "1", f"{PREFIX}CORE": "objects"} if broken_dedup else {}),
        }
        self.deaths = 0
        self.stopped: set[int] = set()
        """Shards whose engine has ended by itself."""
        self._running = {shard: self._started(shard) for shard in SHARDS}

    def _started(self, shard: int) -> subprocess.Popen[bytes]:
        death = str(self.deaths) if self.deaths < DEATHS else ""
        environment = {**self._environment, f"{PREFIX}SHARD": str(shard), "DEATH": death}
        return subprocess.Popen([sys.executable, "-m", "tests.support.dying_engine"], env=environment)

    def look(self) -> None:
        """Start anew what was killed."""
        for shard, process in self._running.items():
            code = process.poll()
            if code is not None and code < 0:
                self.deaths += 1
                self._running[shard] = self._started(shard)
            elif code is not None:
                self.stopped.add(shard)

    def stop(self) -> None:
        """End them all."""
        for process in self._running.values():
            process.kill()
            process.wait()


@pytest.fixture
def url(cluster_servers: RedisServers) -> Iterator[str]:
    """An empty cluster."""
    cluster_servers.flush()
    yield cluster_servers.url
    cluster_servers.flush()


def test_the_shards_are_not_all_on_one_node(cluster_servers: RedisServers) -> None:
    servers = redis_clients.ShardServers(cluster_servers.url)
    assert len({servers.of(shard).info("server")["tcp_port"] for shard in SHARDS}) > 1


def test_every_message_counts_once(url: str, tmp_path: Path) -> None:
    deaths, verdict = run(url, tmp_path, broken_dedup=False)
    assert deaths >= DEATHS
    assert verdict == []


def test_without_deduplication_messages_count_twice(url: str, tmp_path: Path) -> None:
    """The control."""
    _, verdict = run(url, tmp_path, broken_dedup=True)
    assert verdict


def run(url: str, folder: Path, *, broken_dedup: bool) -> tuple[int, list[str]]:
    """Trade while the engines die; return the number of deaths, and what is wrong afterwards."""
    log = RedisStreamLog.connect(url)
    for shard in SHARDS:
        log.mark_passed(
            shard, ARCHIVE_READER, STREAM_START
        )  # nothing is trimmed: at the end the whole input is read
    engines = DyingEngines(url, folder, broken_dedup=broken_dedup)
    try:
        while any(
            len(log.read({streams.commands(shard): STREAM_START}, 9, 0)) < len(SHARDS) for shard in SHARDS
        ):
            engines.look()  # each configures itself, and hears of the others' markets
            time.sleep(0.02)
        commands = [*deposits(), *trading(seed=3, count=COMMANDS)]
        for number, command in enumerate(commands):
            shard = command.account_id % len(SHARDS)
            frame = {COMMANDS_FIELD: encode_frame(signed(folder, shard, [command]))}
            log.append(streams.commands(shard), frame)
            if number % 20 == 0:
                engines.look()
        deadline = time.monotonic() + QUIET_S
        while not (is_quiet(log) or engines.stopped):
            engines.look()
            assert time.monotonic() < deadline, "the shards do not come to rest"
            time.sleep(0.02)
        if engines.stopped:
            return engines.deaths, [f"shard {shard} found its state wrong" for shard in engines.stopped]
        return engines.deaths, [*wrong_with_messages(log), *wrong_with_money(url)]
    finally:
        engines.stop()


def is_quiet(log: RedisStreamLog) -> bool:
    """Whether every shard has done all of its input, and delivered all that came of it."""
    return not any(
        log.undelivered(shard) or log.position(shard).stream_id != log.last_id(streams.commands(shard))
        for shard in SHARDS
    )


def wrong_with_messages(log: RedisStreamLog) -> list[str]:
    """Return what is missing of the messages in the shards' inputs.

    That some came twice is what is tested.
    """
    wrong = []
    doubled = 0
    for shard in SHARDS:
        check_contiguous(events_of(log, shard))
        seen: dict[int, Counter[int]] = {}
        for entry in log.read({streams.commands(shard): STREAM_START}, 1_000_000, block_ms=0):
            if MESSAGES_FIELD in entry.fields:
                frame = decode_messages(entry.fields[MESSAGES_FIELD])
                last = frame.first_sequence + len(frame.messages)
                seen.setdefault(frame.source, Counter()).update(range(frame.first_sequence, last))
        for source, numbers in seen.items():
            doubled += sum(count - 1 for count in numbers.values())
            if sorted(numbers) != list(range(1, len(numbers) + 1)):
                missing = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
                wrong.append(f"messages {missing[:5]} of {max(numbers)} from {source} to {shard} are missing")
    if not doubled:
        wrong.append("no message was delivered twice, so nothing was tested")
    return wrong


def wrong_with_money(url: str) -> list[str]:
    wrong = []
    in_flight: Counter[str] = Counter()
    for reply in audits(url):
        for asset, available, held, fees, deposited, withdrawn, settled in reply.rows:
            in_flight[asset] += settled
            if available + held + fees != deposited - withdrawn + settled:
                wrong.append(f"{asset} does not add up")
    return [
        *wrong,
        *(
            f"{amount} of {asset} are not where they should be"
            for asset, amount in in_flight.items()
            if amount
        ),
    ]


def audits(url: str) -> list[AuditReply]:
    found = []
    with redis_clients.client(url) as client, client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(streams.replies("audit"))
        listener.get_message(timeout=60)
        for shard in SHARDS:
            client.xadd(streams.queries(shard), {QUERIES_FIELD: encode_frame([AuditQuery(shard, "audit")])})
            message = eventually("an audit", lambda: listener.get_message(timeout=0.1))
            (reply,) = decode_replies(message["data"])
            assert isinstance(reply, AuditReply)
            found.append(reply)
    return found
