"""A Redis whose memory is full: new work is refused, what was accepted is finished, and nothing ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from protocol import streams
from protocol.lease import Leader
from protocol.positions import ShardPosition
from protocol.stream_id import STREAM_START, StreamId
from tests.support.acl_servers import ACL_FILES, Server, Trader, _program, server_with_engine
from tests.support.eventually import eventually
from tests.support.redis_programs import redis_programs

WAITING = 40
ACL = ACL_FILES["cli/redis_users.acl"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return redis_programs(tmp_path_factory.mktemp("programs") / "links")


@contextmanager
def full(server: Server) -> Iterator[None]:
    """Give the server less memory than it uses."""
    with server.client() as client:
        client.config_set("maxmemory", 1_000_000)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@pytest.mark.parametrize("name", ["Valkey 9", "Redis 6.2", "Redis 7"])
def test_what_was_accepted_is_finished(programs: dict[str, Path], tmp_path: Path, name: str) -> None:
    program = _program(programs, name)
    with server_with_engine(program, tmp_path, ACL, lease_ms="500") as (server, trader, engine):
        trader.deposit()
        trader.trade(WAITING)
        engine.send_signal(signal.SIGSTOP)
        accepted = {append(trader) for _ in range(WAITING)}
        with server.client() as client, full(server):
            with pytest.raises(redis.OutOfMemoryError):
                append(trader)
            waits_to = last_id(client)
            engine.send_signal(signal.SIGCONT)
            eventually("what waited is committed", lambda: committed_to(client) >= waits_to)
            eventually("a snapshot of it", lambda: newest_snapshot(client) >= waits_to)
            # The lease is renewed, and the second goes on: with nothing else to do, ticks are written.
            epoch = ShardPosition.parse(client.get(streams.position(0))).epoch
            ticked_from = last_id(client)
            eventually("a tick", lambda: last_id(client) > ticked_from)
            assert Leader.parse(client.get(streams.lease(0))).epoch == epoch
            with pytest.raises(redis.OutOfMemoryError):
                append(trader)
        trader.trade(WAITING)
        assert accepted <= trader.open_orders()
        assert trader.acknowledged <= trader.open_orders()
        assert engine.poll() is None


def append(trader: Trader) -> str:
    """Append an order as a gateway does; return its client order id."""
    return trader.append_one()


def last_id(client: redis.Redis) -> StreamId:
    information = client.xinfo_stream(streams.commands(0))
    return StreamId.parse(information["last-generated-id"])


def committed_to(client: redis.Redis) -> StreamId:
    position = client.get(streams.position(0))
    assert isinstance(position, bytes)
    return ShardPosition.parse(position).stream_id


def newest_snapshot(client: redis.Redis) -> StreamId:
    found = client.lindex(streams.snapshots(0), 0)
    return StreamId.parse(found.split(b"|")[1]) if isinstance(found, bytes) else STREAM_START
