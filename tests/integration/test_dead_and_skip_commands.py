"""`exchange dead pass`, `exchange dead requeue` and `exchange skip`, as an operator types them."""

import time
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import redis
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.main import main
from engine_worker.core.snapshot import state_hash
from engine_worker.entries import MessageNotUnderstood
from engine_worker.worker import Worker
from persist.ingest import ShardIngest
from protocol import streams
from protocol.codec import FORMAT, decode_skip_frame, encode_frame
from protocol.commands import CancelOrder, Deposit
from protocol.configuration import Role
from protocol.events import EntrySkipped
from protocol.signing import is_genuine
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import COMMANDS_FIELD, EVENTS_FIELD, MESSAGES_FIELD
from protocol.units import AccountId, AssetUnits, OrderId, TimeMs
from runtime.operator_keys import first_config, key_name, private_key, public_half, replace_private_key
from runtime.settings import PREFIX, load_settings
from stream_log.halt import write_halt
from stream_log.redis_log import RedisStreamLog
from tests.integration.persist.stored import query
from tests.support.market_log import START_MS, MarketLog, frame, publish_markets
from tests.support.market_log import deposit as deposited
from tests.support.market_log import market_map as stored_markets
from tests.support.workers import deposits, enqueue, events_of, market_map, run_until_quiet, worker

MARKETS = market_map(3)
UNKNOWN = [99, 8, "new", "what"]


@pytest.fixture
def log(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RedisStreamLog:
    for name, value in {"REDIS_URL": redis_url, "DATA_DIR": str(tmp_path), "SHARD_COUNT": "3"}.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    return RedisStreamLog.connect(redis_url)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def exchange(*arguments: str, said: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=said)


def leader(log: RedisStreamLog) -> Worker:
    zero = worker(log, 0, MARKETS)
    zero.start()
    enqueue(log, deposits(), MARKETS)
    run_until_quiet([zero])
    return zero


def deposit(number: int, account_id: int = 3) -> Deposit:
    return Deposit(number, "gate", AccountId(account_id), "USDT", AssetUnits(number), f"more {number}")


def funds(zero: Worker) -> int:
    return zero.shard.state.accounts[AccountId(3)].funds["USDT"].available


def written(log: RedisStreamLog, *commands: object) -> StreamId:
    return log.append(streams.commands(0), {COMMANDS_FIELD: encode_frame(commands)})


def dead_fields(log: RedisStreamLog) -> list[dict[bytes, bytes]]:
    return [entry.fields for entry in log.read({streams.dead_letters(0): STREAM_START}, 100, block_ms=0)]


def test_a_letter_is_passed_by_its_name(log: RedisStreamLog) -> None:
    zero = leader(log)
    ids = [written(log, deposit(1), UNKNOWN, deposit(2, account_id=1)), written(log, UNKNOWN)]
    run_until_quiet([zero])
    listed = exchange("dead", "--no-database")
    for name in (f"{ids[0]}#1", f"{ids[0]}#2", f"{ids[1]}#0"):
        assert name in listed.output
    wrong = exchange("dead", "pass", "in:{0}", str(ids[0]), "--yes")
    assert wrong.exit_code == 1
    assert "There is no dead letter" in wrong.output
    assert exchange("dead", "pass", "in:{0}", f"{ids[0]}#1", said="n\n").exit_code == 1
    assert len(dead_fields(log)) == 3
    passed = exchange("dead", "pass", "in:{0}", f"{ids[0]}#1", said="y\n")
    assert passed.exit_code == 0, passed.output
    assert "Invalid value 99" in passed.output
    assert [fields[b"item"] for fields in dead_fields(log)] == [b"2", b"0"]


def test_a_command_is_put_back_once_it_is_understood(log: RedisStreamLog, client: redis.Redis) -> None:
    zero = leader(log)
    before = funds(zero)
    stream_id = written(log, UNKNOWN, deposit(5, account_id=1))
    run_until_quiet([zero])
    for item, reason in ((0, "Invalid value 99"), (1, "account 1 is not one of shard 0")):
        refused = exchange("dead", "requeue", "in:{0}", f"{stream_id}#{item}", "--yes")
        assert refused.exit_code == 1
        assert "still not understood" in " ".join(refused.output.split())
        assert reason in " ".join(refused.output.replace("│", " ").split())
    # As of an older program, to which the command was new.
    letter = {"source": "in:{0}", "id": "7-0", "reason": "Invalid value 4", "item": "3"}
    late = CancelOrder(9, "gate", AccountId(3), "BTCUSDT", OrderId(1), deadline_ms=TimeMs(1))
    for number, command in enumerate((deposit(7), late)):
        fields: Any = {**letter, "item": str(number), "payload": encode_frame(command)}
        client.xadd(streams.dead_letters(0), fields)
    back = exchange("dead", "requeue", "in:{0}", "7-0#0", said="y\n")
    assert back.exit_code == 0, back.output
    assert "applied now" in " ".join(back.output.split())
    assert "1 of them will be refused" in exchange("dead", "requeue", "in:{0}", "7-0#1", said="n\n").output
    run_until_quiet([zero])
    assert funds(zero) == before + 7
    assert exchange("dead", "requeue", "in:{0}", "7-0#0", "--yes").exit_code == 1
    run_until_quiet([zero])
    assert funds(zero) == before + 7
    assert len(dead_fields(log)) == 3


def test_a_whole_entry_is_put_back_and_mail_and_garbage_are_not(
    log: RedisStreamLog, client: redis.Redis
) -> None:
    zero = leader(log)
    before = funds(zero)
    payloads = {
        "1-0": {COMMANDS_FIELD: encode_frame((FORMAT, 1, [deposit(1), deposit(2)]))},
        "2-0": {MESSAGES_FIELD: encode_frame((FORMAT, 1, 1, 0, 1, [UNKNOWN]))},
        "3-0": {b"x": b"y"},
    }
    for stream_id, fields in payloads.items():
        payload = msgspec.msgpack.encode(fields)
        letter = {"source": "in:{0}", "id": stream_id, "reason": "planted", "payload": payload}
        client.xadd(streams.dead_letters(0), letter)  # type: ignore[arg-type]
    assert exchange("dead", "requeue", "in:{0}", "1-0", "--yes").exit_code == 0
    run_until_quiet([zero])
    assert funds(zero) == before + 3
    assert "mail of another shard" in exchange("dead", "requeue", "in:{0}", "2-0", "--yes").output
    assert "no commands in it" in exchange("dead", "requeue", "in:{0}", "3-0", "--yes").output
    assert len(dead_fields(log)) == 2


def test_an_event_goes_back_into_the_database(
    log: RedisStreamLog, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", database_url)
    monkeypatch.setenv(f"{PREFIX}SHARD_COUNT", "1")
    trades = MarketLog()
    log.append(streams.events(0), {EVENTS_FIELD: frame(trades.trade(START_MS, 5, 1))})
    unknown = log.append(streams.events(0), {EVENTS_FIELD: encode_frame([UNKNOWN])})
    publish_markets(log, stored_markets())
    ingest = ShardIngest(0, log, database_url, 1, 1_000)
    ingest.step()
    assert exchange("dead", "requeue", "dead_events", str(unknown), "--yes").exit_code == 1
    with psycopg.connect(database_url) as connection:
        understood = frame(deposited(START_MS, 1001), trades.trade(START_MS, 6, 1))
        connection.execute("UPDATE dead_events SET payload = %s", (understood,))
    stored = exchange("dead", "requeue", "dead_events", str(unknown), said="y\n")
    assert stored.exit_code == 0, stored.output
    assert "2 events stored" in stored.output
    assert query(database_url, "SELECT trade_id FROM trades ORDER BY 1") == [(1,), (2,)]
    log.append(streams.events(0), {EVENTS_FIELD: frame(trades.trade(START_MS, 7, 1))})
    ingest.step()
    assert query(database_url, "SELECT max(trade_id) FROM trades") == [(3,)]
    again = exchange("dead", "requeue", "dead_events", str(unknown), "--yes")
    assert again.exit_code == 1
    garbage = log.append(streams.events(0), {EVENTS_FIELD: b"garbage"})
    ingest.step()
    ingest.close()
    assert exchange("dead", "pass", "dead_events", str(garbage), "--yes").exit_code == 0
    assert query(database_url, "SELECT * FROM dead_events") == []


def skip(stream_id: StreamId | str, *more: str, said: str | None = None) -> Result:
    return exchange(
        "skip",
        "--shard",
        "0",
        "--id",
        str(stream_id),
        "--operator",
        "ada",
        "--reason",
        "looked at it",
        *more,
        said=said,
    )


@pytest.mark.parametrize("forged", [False, True])
def test_an_entry_is_skipped_by_command(log: RedisStreamLog, client: redis.Redis, forged: bool) -> None:
    zero = leader(log)
    refused = skip("1-0", "--yes")
    assert refused.exit_code == 1
    assert "has not halted" in refused.output
    poison = log.append(
        streams.commands(0),
        {MESSAGES_FIELD: encode_frame((FORMAT, time.time_ns() // 1_000, 1, 0, 1, [UNKNOWN]))},
    )
    enqueue(log, [deposit(1)], MARKETS)
    with pytest.raises(MessageNotUnderstood) as halt:
        run_until_quiet([zero])
    write_halt(client, 0, str(halt.value))
    other = skip("1-0", "--yes")
    assert other.exit_code == 1
    assert f"{poison} does" in " ".join(other.output.replace("│", " ").split())
    assert skip(poison, "--mail", "sent", said="n\n").exit_code == 1
    silent = skip(poison, "--yes")
    assert silent.exit_code == 1
    assert "Shard 1 does not answer" in silent.output
    assert log.skip(0) is None
    ordered = skip(poison, "--mail", "forged" if forged else "sent", said="y\n")
    assert ordered.exit_code == 0, ordered.output
    for shown in (
        "message 1: not understood (Invalid value 99",
        "from shard 1 to shard 0",
        "message 1 of shard 1",
    ):
        assert shown in ordered.output
    again = worker(log, 0, MARKETS)
    again.start()
    before = state_hash(again.shard)
    run_until_quiet([again])
    assert state_hash(again.shard) != before
    assert again.shard.state.received.get(1, 0) == (0 if forged else 1)
    (told,) = [event for event in events_of(log, 0) if isinstance(event, EntrySkipped)]
    assert (told.stream_id, told.operator, told.reason) == (str(poison), "ada", "looked at it")
    assert skip(poison, "--yes").exit_code == 1


@pytest.mark.parametrize("wrong", [("--shard", "3"), ("--operator", " "), ("--reason", "x" * 1_001)])
def test_a_skip_needs_a_shard_a_name_and_a_reason(log: RedisStreamLog, wrong: tuple[str, str]) -> None:
    assert skip("1-0", *wrong).exit_code == 2


def test_a_skip_is_signed_with_a_key_that_the_shard_knows(log: RedisStreamLog, client: redis.Redis) -> None:
    settings = load_settings()
    ours = private_key(settings, Role.OPERATOR)
    first = Worker(log, 0, MARKETS, batch_entries_max=3, config=first_config(settings))
    first.start()
    run_until_quiet([first])
    mail = encode_frame((FORMAT, time.time_ns() // 1_000, 1, 0, 1, [UNKNOWN]))
    poison = log.append(streams.commands(0), {MESSAGES_FIELD: mail})
    with pytest.raises(MessageNotUnderstood) as halt:
        run_until_quiet([first])
    write_halt(client, 0, str(halt.value))

    replace_private_key(settings, Role.OPERATOR, Ed25519PrivateKey.generate())
    refused = skip(poison, "--mail", "forged", "--yes")
    assert refused.exit_code == 1
    assert (
        f"does not know the key {key_name(Role.OPERATOR, public_half(private_key(settings, Role.OPERATOR)))}"
        in (" ".join(refused.output.replace("│", " ").split()))
    )
    assert log.skip(0) is None

    replace_private_key(settings, Role.OPERATOR, ours)
    ordered = skip(poison, "--mail", "forged", "--yes")
    assert ordered.exit_code == 0, ordered.output
    again = worker(log, 0, MARKETS)
    again.start()
    run_until_quiet([again])
    assert log.skips(0).keys() == {poison}
    frame = decode_skip_frame(log.skips(0)[poison])
    assert frame.signed is not None
    assert is_genuine(frame.signed, public_half(ours))
