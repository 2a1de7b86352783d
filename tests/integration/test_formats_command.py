"""`exchange formats`, `exchange formats switch` and `exchange convert`, as an operator types them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import redis
from click.testing import CliRunner, Result
from redis.crc import key_slot

from cli.commands.convert import convert_all
from cli.console import CommandError
from cli.formats import expected, read_readers
from cli.main import main
from engine_worker.core.snapshot import decode_snapshot, snapshot_format
from engine_worker.cores import OBJECTS
from engine_worker.worker import Worker
from protocol import streams
from protocol.configuration import ShardConfig
from protocol.lease import Leader
from protocol.release import Release, release_of, this_release
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD
from protocol.switching import plan_switch
from runtime.metrics import Health, Heartbeat, decode_health, health_keys, health_now, read_health
from runtime.operator_keys import first_config
from runtime.settings import PREFIX, Settings, load_settings
from stream_log.interface import Commit
from stream_log.redis_log import RedisStreamLog
from tests.support.next_release import NEXT, next_release
from tests.support.snapshot_forms import MARKETS as GOLDEN_MARKETS
from tests.support.snapshot_forms import SAID, WRITTEN, state_of
from tests.support.workers import run_until_quiet


@pytest.fixture
def settings(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {"REDIS_URL": redis_url, "DATA_DIR": str(tmp_path), "SHARD_COUNT": "2"}.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    return load_settings()


@pytest.fixture
def log(redis_url: str, settings: Settings) -> RedisStreamLog:
    return RedisStreamLog.connect(redis_url)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def exchange(*arguments: str, said: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=said)


def text(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def worker(settings: Settings, shard: int) -> Worker:
    # The compiled core is of one release; the next one is played by the objects.
    own = msgspec.structs.replace(settings, shard=shard, core=OBJECTS)
    return Worker.of(own, RedisStreamLog.connect(settings.redis_url))


@contextmanager
def running(settings: Settings) -> Iterator[list[Worker]]:
    """Both shards, led by threads of this process."""
    workers, stopping = [worker(settings, shard) for shard in range(2)], threading.Event()
    for each in workers:
        each.start()
    run_until_quiet(workers)

    def lead() -> None:
        while not stopping.is_set():
            for each in workers:
                each.step(10)

    thread = threading.Thread(target=lead)
    thread.start()
    try:
        yield workers
    finally:
        stopping.set()
        thread.join()


def say(client: redis.Redis, name: str, reads: Release) -> None:
    client.set(streams.health(name), msgspec.json.encode(Health(1, time.time(), None, *reads)), ex=60)


def written(log: RedisStreamLog, workers: list[Worker]) -> list[Release]:
    return [release_of(each.shard.state.config) for each in workers if each.shard.state.config is not None]


def test_a_process_announces_what_it_reads(client: redis.Redis) -> None:
    client.set(streams.health("feeds"), msgspec.json.encode(health_now(None)))
    health = read_health(client, "feeds")
    assert health is not None
    assert (health.reads_format, health.reads_kinds, health.reads_rules) == this_release()
    client.set(streams.health("feeds"), b'{"pid": 1, "time": 5.0}')
    assert read_health(client, "feeds") == Health(1, 5.0, None, 0, 0, 0)


def test_each_of_several_processes_of_one_name_announces(settings: Settings, client: redis.Redis) -> None:
    """As the pods of a deployment do: the last one's heartbeat must not hide the others."""
    for name in expected(settings):
        say(client, name, NEXT)
    old, new = streams.instance_health("gateway", "pod-1.7"), streams.instance_health("gateway", "pod-2.7")
    client.set(new, msgspec.json.encode(Health(1, 5.0, None, *NEXT)))
    names = [each.name for each in read_readers(client, settings)]
    assert names == [
        "gateway",
        "engine-0",
        "engine-1",
        "feeds",
        "ws-edge",
        "persist-nudger",
        "persist-worker",
    ]
    client.set(old, msgspec.json.encode(Health(1, 5.0, None, *this_release())))
    found = {each.name: each.reads for each in read_readers(client, settings)}
    assert (found["gateway@pod-1.7"], found["gateway@pod-2.7"]) == (this_release(), NEXT)
    client.delete(streams.health("gateway"), streams.health("feeds"))
    lacking = plan_switch({}, read_readers(client, settings)).lacking
    assert lacking == (("gateway@pod-1.7", this_release()), ("feeds", None))
    say(client, "engine-0-1", NEXT)
    say(client, "engine-1-standby-1", NEXT)
    client.delete(streams.health("engine-0"), streams.health("engine-1"))
    silent = [each.name for each in read_readers(client, settings) if each.reads is None]
    assert silent == ["engine-1", "feeds"], "engine-0-1 is a pod of engine-0"


@pytest.mark.parametrize("process", ["gateway", "engine-1"])
def test_a_heartbeat_is_told_by_name_and_by_instance(
    settings: Settings, client: redis.Redis, process: str
) -> None:
    heartbeat = Heartbeat(settings, process)
    heartbeat.start()
    for key in health_keys(process):
        until = time.monotonic() + 5
        while (health := decode_health(client.get(key))) is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert (health.reads_format, health.reads_kinds, health.reads_rules) == this_release()
        assert streams.process_of_health(key).partition("@")[0] == process
    slots = {key_slot(key.encode()) for key in health_keys(process)}
    assert len(slots) == 1, "on a cluster they are on one node"
    heartbeat.stop()
    assert client.exists(*health_keys(process)) == 0


def test_the_shards_are_switched_once_everybody_reads_the_newest(
    settings: Settings, log: RedisStreamLog, client: redis.Redis
) -> None:
    names, before = [*expected(settings), "gateway-of-a-pod"], this_release()
    for name in names:
        say(client, name, before)
    with running(settings) as workers:
        assert written(log, workers) == [before, before]
        done = exchange("formats", "switch", "--yes")
        assert (done.exit_code, "already" in done.output) == (0, True)

        with next_release():
            for name in names[:-1]:
                say(client, name, NEXT)
            shown = exchange("formats")
            assert "gateway-of-a-pod (format 2, kinds 1, rules 1)" in text(shown)
            refused = exchange("formats", "switch", "--yes")
            assert refused.exit_code == 1
            assert "Not every process reads it: gateway-of-a-pod (format 2, kinds 1, rules 1)" in text(
                refused
            )
            assert written(log, workers) == [before, before]

            client.delete(streams.health("gateway-of-a-pod"), streams.health("engine-1"))
            silent = exchange("formats", "switch", "--yes")
            assert silent.exit_code == 1
            assert "engine-1 (not heard)" in text(silent)
            assert exchange("formats", "switch", "--without", "engine-1", said="n\n").exit_code == 1
            assert written(log, workers) == [before, before]

            ordered = exchange("formats", "switch", "--without", "engine-1", said="y\n")
            assert ordered.exit_code == 0, ordered.output
            assert written(log, workers) == [NEXT, NEXT]
            as_json = msgspec.json.decode(exchange("formats", "--json").output)
            assert as_json["shards"] == {"0": NEXT._asdict(), "1": NEXT._asdict()}
            assert as_json["lacking"] == ["engine-1"]
            assert exchange("formats", "switch", "--yes", "--without", "engine-1").exit_code == 0


def stopped(log: RedisStreamLog) -> None:
    """Leave what both shards of version e069486 have left."""
    for shard in range(2):
        stream_id = StreamId.parse(SAID["shards"][shard]["stream_id"])
        log.commit(Commit(shard, log.take_over(shard), stream_id))
        log.save_snapshot(shard, WRITTEN[shard], stream_id)


def test_snapshots_of_an_earlier_release_are_converted(settings: Settings, log: RedisStreamLog) -> None:
    assert settings.market_map() == GOLDEN_MARKETS
    stopped(log)
    shown = convert_all(settings, log, dry_run=True)
    assert [(row["snapshots"], row["isPresent"], row["converted"]) for row in shown] == [
        ((2,), False, False)
    ] * 2
    converted = convert_all(settings, log, dry_run=False)
    assert [(row["snapshots"][0], row["converted"], row["reason"]) for row in converted] == [
        (3, True, "")
    ] * 2
    for shard in range(2):
        decoded, stream_id = decode_snapshot(log.snapshots(shard)[0])
        said = dict(SAID["shards"][shard])
        assert str(stream_id) == said.pop("stream_id")
        assert state_of(decoded) == said
        assert decoded.state.config == first_config(settings)
    kept = [log.snapshots(shard) for shard in range(2)]
    again = convert_all(settings, log, dry_run=False)
    assert [(row["isPresent"], row["converted"], row["reason"]) for row in again] == [(True, False, "")] * 2
    assert [log.snapshots(shard) for shard in range(2)] == kept


def test_what_was_committed_after_a_snapshot_forbids_to_convert_it(
    settings: Settings, log: RedisStreamLog
) -> None:
    stopped(log)
    later = log.append(streams.commands(0), {COMMANDS_FIELD: msgspec.msgpack.encode([])})
    log.commit(Commit(0, log.position(0), later))
    looked_at, _ = convert_all(settings, log, dry_run=True)
    assert "committed is" in looked_at["reason"]
    first, second = convert_all(settings, log, dry_run=False)
    assert "committed is" in first["reason"]
    assert (first["converted"], first["input"]) == (False, {1: 1})
    assert second["converted"]
    assert snapshot_format(log.snapshots(0)[0]) == 2


def test_a_log_of_an_earlier_release_without_a_snapshot_cannot_be_converted(
    settings: Settings, log: RedisStreamLog
) -> None:
    log.append(streams.events(1), {EVENTS_FIELD: msgspec.msgpack.encode([])})
    first, second = convert_all(settings, log, dry_run=True)
    assert first["reason"] == ""
    assert "start that release again and stop all engine workers" in second["reason"]


def test_nothing_is_converted_while_somebody_leads(settings: Settings, log: RedisStreamLog) -> None:
    stopped(log)
    log.take_over(1, Leader("engine-1", 1, 3_000))
    with pytest.raises(CommandError, match="engine-1 still runs"):
        convert_all(settings, log, dry_run=False)
    assert snapshot_format(log.snapshots(0)[0]) == 2


def test_convert_by_command(
    settings: Settings, log: RedisStreamLog, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", database_url)
    stopped(log)
    assert "to be converted" in exchange("convert", "--dry-run").output
    done = exchange("convert")
    assert done.exit_code == 0, done.output
    assert done.output.count("converted") == 2
    assert exchange("convert").output.count("up to date") == 2
    assert isinstance(decode_snapshot(log.snapshots(0)[0])[0].state.config, ShardConfig)
