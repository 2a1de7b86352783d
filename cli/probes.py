"""Questions to a running exchange: does it answer, how far is each part."""

import time
import urllib.error
import urllib.request
from typing import Any

import msgspec
import redis

from protocol import streams
from protocol.codec import decode_replies, encode_frame
from protocol.replies import AuditQuery, AuditReply
from protocol.streams import QUERIES_FIELD, STREAM_START, StreamId, split_stream_id
from runtime.metrics import read_health
from runtime.settings import Settings

TIMEOUT_S = 2.0
QUERIES_MAX = 1_000


class ShardReport(msgspec.Struct):
    """How one shard stands. `rows` are those of an `AuditReply`; empty when the shard does not answer."""

    shard: int
    markets: list[str]
    accounts: str
    answers: bool
    epoch: int
    position: str
    waiting_ms: int
    """Age of the oldest command that is not committed yet; 0: none waits."""
    input_entries: int
    event_entries: int
    outbox_entries: int
    dead_letters: int
    passed: dict[str, str]
    command_count: int = 0
    open_orders: int = 0
    conserved: bool = False
    rows: list[tuple[str, int, int, int, int, int, int]] = []


def gateway_answers(settings: Settings) -> bool:
    """Return whether the REST API answers a ping."""
    try:
        with urllib.request.urlopen(f"{settings.rest_url()}/api/v3/ping", timeout=TIMEOUT_S) as response:  # noqa: S310
            return bool(response.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def connect(settings: Settings) -> redis.Redis:
    """Return a connection to the exchange's Redis, which gives up after `TIMEOUT_S`."""
    url = settings.resolved_redis_url()
    return redis.Redis.from_url(url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S, protocol=2)


def audit(client: redis.Redis, shards: list[int], timeout_s: float = TIMEOUT_S) -> dict[int, AuditReply]:
    """Ask the shards for their books of money; those that do not answer in time are missing."""
    waiter = f"cli-{time.time_ns()}"
    found: dict[int, AuditReply] = {}
    with client.pubsub(ignore_subscribe_messages=True) as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(streams.replies(waiter))
        for shard in shards:
            frame = encode_frame([AuditQuery(shard, waiter)])
            client.xadd(streams.queries(shard), {QUERIES_FIELD: frame}, maxlen=QUERIES_MAX)
        deadline = time.monotonic() + timeout_s
        while len(found) < len(shards) and (left := deadline - time.monotonic()) > 0:
            message = listener.get_message(timeout=left)
            if message is not None:
                replies = decode_replies(message["data"])
                found |= {reply.request_id: reply for reply in replies if isinstance(reply, AuditReply)}
    return found


def shard_reports(settings: Settings) -> list[ShardReport]:
    """Return how every shard stands."""
    market_map = settings.market_map()
    with connect(settings) as client:
        audits = audit(client, list(range(settings.shard_count)))
        return [
            _shard_report(client, shard, [market.symbol for market in market_map.markets_of_shard(shard)], audits)
            for shard in range(settings.shard_count)
        ]


def _shard_report(client: redis.Redis, shard: int, markets: list[str], audits: dict[int, AuditReply]) -> ShardReport:
    with client.pipeline(transaction=False) as pipeline:
        pipeline.get(streams.position(shard))
        for stream in (streams.commands, streams.events, streams.outbox, streams.dead_letters):
            pipeline.xlen(stream(shard))
        pipeline.hgetall(streams.passed(shard))
        position, commands, events, outbox, dead_letters, passed = pipeline.execute()
    epoch, _, stream_id = (position or f"0|{STREAM_START}".encode()).decode().partition("|")
    report = ShardReport(
        shard,
        markets,
        f"ids that leave {shard} when divided by the number of shards",
        shard in audits,
        int(epoch),
        stream_id,
        _waiting_ms(client, shard, StreamId(stream_id)),
        commands,
        events,
        outbox,
        dead_letters,
        {name.decode(): value.decode() for name, value in passed.items()},
    )
    if reply := audits.get(shard):
        report.rows = list(reply.rows)
        report.command_count, report.open_orders = reply.command_count, reply.open_orders
        report.conserved = all(
            available + held + fees == deposited - withdrawn + settled
            for _, available, held, fees, deposited, withdrawn, settled in reply.rows
        )
    return report


def _waiting_ms(client: redis.Redis, shard: int, position: StreamId) -> int:
    waiting: Any = client.xrange(streams.commands(shard), f"({position}", "+", 1)
    if not waiting:
        return 0
    now: Any = client.time()
    waited: int = now[0] * 1_000 + now[1] // 1_000 - split_stream_id(waiting[0][0].decode())[0]
    return max(0, waited)


def lags(settings: Settings, names: list[str]) -> dict[str, int | None]:
    """Return, for each process that says so, by how many milliseconds it is behind."""
    with connect(settings) as client:
        healths = {name: read_health(client, name) for name in names}
    return {name: health.lag_ms for name, health in healths.items() if health is not None}
