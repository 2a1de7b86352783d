"""Questions to a running exchange: does it answer, how far is each part."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import msgspec
import redis

from cli.local.processes import ProcessSpec, edges, engines, gateways, readers
from protocol import streams
from protocol.codec import LaterFormatError, decode_replies, encode_frame
from protocol.configuration import MarketStatus
from protocol.lease import Leader, Standby
from protocol.listing import decode_configuration
from protocol.positions import ShardPosition
from protocol.replies import AuditQuery, AuditReply, BalancesQuery, Query, Reply
from protocol.stream_id import StreamId
from protocol.streams import QUERIES_FIELD
from protocol.units import AccountId
from runtime import redis_clients
from runtime.metrics import read_health
from runtime.own_door import NoAnswerError, ask_http, ask_websocket
from runtime.settings import Settings, SettingsError
from runtime.tls import unverified_context
from stream_log.halt import Halt, read_halt
from stream_log.redis_log import RedisStreamLog

TIMEOUT_S = 2.0
QUERIES_MAX = 1_000
_NOBODY = AccountId(0)


class StandbyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one standby."""

    process: str
    pid: int
    behind_ms: int
    """How far behind the shard's position it was when it said so, `said_ms_ago`."""
    said_ms_ago: int


class ShardReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one shard; fields that only the shard knows are None if it does not answer."""

    shard: int
    markets: list[str]
    answers: bool
    epoch: int
    position: str
    leader: str | None
    """The process that leads; None if there is no lease."""
    leader_pid: int | None
    leader_connected: bool
    lease_left_ms: int
    standbys: list[StandbyReport]
    snapshot_age_ms: int | None
    """How long ago the newest snapshot was saved; None: there is none."""
    waiting_ms: int
    """Age of the oldest command that is not committed yet; 0: none waits."""
    input_entries: int
    event_entries: int
    outbox_entries: int
    dead_letters: int
    passed: dict[str, str]
    """Reader -> the id up to which it needs no events any more."""
    halted: str
    """Why the shard is halted; empty: it is not."""
    command_count: int | None
    open_orders: int | None
    conserved: bool | None
    """Whether its money adds up, in every asset."""
    rows: tuple[tuple[str, int, int, int, int, int, int], ...]
    """As in `AuditReply`."""


def gateway_answers(settings: Settings) -> bool:
    """Return whether the REST API answers a ping, at every gateway."""
    return all(answers_ping(settings, port) for port in settings.rest_ports())


def answers_ping(settings: Settings, port: int) -> bool:
    """Return whether the gateway on this port answers a ping."""
    return _answers(ask_http, settings, port)


def answers_handshake(settings: Settings, port: int) -> bool:
    """Return whether the edge on this port opens a WebSocket and answers a ping on it."""
    return _answers(ask_websocket, settings, port)


def _answers(ask: Callable[..., None], settings: Settings, port: int) -> bool:
    context = unverified_context() if settings.tls_certificate else None
    try:
        ask(settings.host, port, TIMEOUT_S, context=context)
    except NoAnswerError:
        return False
    return True


def front_doors(settings: Settings) -> Mapping[str, Callable[[], bool]]:
    """Return, for each process that clients connect to, the question whether it serves them: by name."""
    rest = zip(gateways(settings), settings.rest_ports(), strict=True)
    websockets = zip(edges(settings), settings.ws_ports(), strict=True)
    return {spec.name: partial(answers_ping, settings, port) for spec, port in rest} | {
        spec.name: partial(answers_handshake, settings, port) for spec, port in websockets
    }


def serving(settings: Settings) -> dict[str, bool]:
    """Return which of the processes that clients connect to serve them, all asked at once."""
    doors = front_doors(settings)
    with ThreadPoolExecutor(len(doors)) as pool:
        return dict(zip(doors, pool.map(lambda asks: asks(), doors.values()), strict=True))


def frontend_answers(settings: Settings) -> bool:
    """Return whether the frontend's server answers, also while it has nothing to show yet."""
    try:
        with _asked_frontend(settings) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def frontend_note(settings: Settings) -> str:
    """Return what keeps browsers from seeing the frontend, in brackets; nothing when all is well."""
    try:
        with _asked_frontend(settings) as response:
            health = msgspec.json.decode(response.read(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return " (starting)"
    if health["state"] == "ready":
        return ""
    return " (being built)" if health["state"] == "building" else f" (NOT AVAILABLE: {health['reason']})"


def _asked_frontend(settings: Settings) -> Any:
    context = unverified_context() if settings.tls_certificate else None
    url = f"{settings.frontend_url()}/health"
    return urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context)  # noqa: S310 - our own server


def _ask_nobodys(shard: int, waiter: str) -> BalancesQuery:
    """Query an account that does not exist: a shard answers that at once, whatever its size."""
    return BalancesQuery(shard, waiter, _NOBODY)


def shards_answer(settings: Settings, timeout_s: float = 0.2) -> bool:
    """Return whether every shard answers a query within `timeout_s`."""
    shards = list(range(settings.shard_count))
    try:
        with connect(settings) as client:
            return len(ask(client, shards, _ask_nobodys, timeout_s)) == len(shards)
    except (redis.RedisError, SettingsError):
        return False


def says_health(settings: Settings, name: str, pid: int, lag_ms_max: int = 2**63) -> bool:
    """Return whether the process of this name and pid has sent a heartbeat, and is no further behind."""
    try:
        with connect(settings) as client:
            health = read_health(client, name)
    except redis.RedisError:
        return False
    return health is not None and health.pid == pid and (health.lag_ms or 0) <= lag_ms_max


def leader_of(settings: Settings, shard: int) -> Leader | None:
    """Return the connected holder of the shard's lease, or None."""
    with closing(connect_log(settings)) as log:
        sight = log.lease(shard)
    return sight.leader if sight.connected else None


def standbys_in_step(settings: Settings, shard: int, lag_ms_max: int) -> list[Standby]:
    """Return the standbys that could take the shard over at once."""
    with closing(connect_log(settings)) as log:
        return [standby for standby in log.standbys(shard) if standby.behind_ms <= lag_ms_max]


def say_health(settings: Settings, specs: Iterable[ProcessSpec]) -> bool:
    """Return whether each of these processes has sent a heartbeat."""
    try:
        with connect(settings) as client:
            return all(read_health(client, spec.name) is not None for spec in specs)
    except redis.RedisError:
        return False


def connect(settings: Settings) -> redis.Redis:
    """Return a connection to the exchange's Redis, which gives up after `TIMEOUT_S`."""
    url = settings.resolved_redis_url()
    return redis_clients.client(url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S)


def connect_cache(settings: Settings) -> redis.Redis:
    """Return a connection to the Redis of what may be lost, which gives up after `TIMEOUT_S`."""
    url = settings.resolved_cache_url()
    return redis_clients.client(url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S)


def connect_log(settings: Settings) -> RedisStreamLog:
    """Return the exchange's stream log, which gives up after `TIMEOUT_S`."""
    return RedisStreamLog.connect(settings.resolved_redis_url(), timeout_s=TIMEOUT_S)


def ask(
    client: redis.Redis,
    shards: Sequence[int],
    query: Callable[[int, str], Query],
    timeout_s: float = TIMEOUT_S,
) -> dict[int, Reply]:
    """Ask each shard what `query` makes of its number and the reply channel.

    Those that do not answer in time are missing.
    """
    reply_of: dict[int, Reply] = {}
    with command_waiter(client, timeout_s) as (waiter, replies):
        for shard in shards:
            frame = encode_frame([query(shard, waiter)])
            client.xadd(streams.queries(shard), {QUERIES_FIELD: frame}, maxlen=QUERIES_MAX)
        for reply in replies():
            reply_of[reply.request_id] = reply
            if len(reply_of) == len(shards):
                break
    return reply_of


@contextmanager
def command_waiter(
    client: redis.Redis, timeout_s: float = TIMEOUT_S
) -> Iterator[tuple[str, Callable[[], Iterator[Reply]]]]:
    """Listen on a reply channel of our own: its name, and what yields the replies for so long."""
    waiter = f"cli-{time.time_ns()}"
    with client.pubsub(ignore_subscribe_messages=True) as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(streams.replies(waiter))

        def replies() -> Iterator[Reply]:
            deadline = time.monotonic() + timeout_s
            while (left := deadline - time.monotonic()) > 0:
                message = listener.get_message(timeout=left)
                if message is not None:
                    yield from decode_replies(message["data"])

        yield waiter, replies


def audit(client: redis.Redis, shards: Sequence[int], timeout_s: float = TIMEOUT_S) -> dict[int, AuditReply]:
    """Query the shards' sums of money; those that do not answer in time are missing."""
    replies = ask(client, shards, AuditQuery, timeout_s)
    return {shard: reply for shard, reply in replies.items() if isinstance(reply, AuditReply)}


def halts(settings: Settings) -> dict[int, Halt]:
    """Return why each shard that has stopped did so; nothing when Redis does not answer."""
    try:
        with connect(settings) as client:
            halt_of = {shard: read_halt(client, shard) for shard in range(settings.shard_count)}
    except (redis.RedisError, SettingsError):
        return {}
    return {shard: halt for shard, halt in halt_of.items() if halt is not None}


def shard_reports(settings: Settings) -> list[ShardReport]:
    """Return the state of every shard."""
    with connect(settings) as client, closing(connect_log(settings)) as log:
        audits = audit(client, list(range(settings.shard_count)))
        return [
            _shard_report(client, log, shard, _markets_of(log, shard), audits)
            for shard in range(settings.shard_count)
        ]


def _markets_of(log: RedisStreamLog, shard: int) -> list[str]:
    """Return the markets in a shard's configuration; none before it has one."""
    value = log.configuration(shard)
    try:
        configs = decode_configuration(value).markets if value is not None else ()
    except (msgspec.MsgspecError, LaterFormatError):
        return []
    return [config.market.symbol for config in configs if config.status is not MarketStatus.DELISTED]


def _shard_report(
    client: redis.Redis, log: RedisStreamLog, shard: int, markets: list[str], audits: dict[int, AuditReply]
) -> ShardReport:
    with client.pipeline(transaction=False) as pipeline:
        for stream in (streams.commands, streams.events, streams.outbox, streams.dead_letters):
            pipeline.xlen(stream(shard))
        pipeline.hgetall(streams.passed(shard))
        input_entries, event_entries, outbox_entries, dead_letters, passed = pipeline.execute()
    # The standbys first: the position may move on, and none of them is ahead of it.
    standbys, sight, saved = log.standbys(shard), log.lease(shard), log.saved_snapshots(shard)
    epoch, position = _position(client, shard)
    reply = audits.get(shard)
    return ShardReport(
        shard=shard,
        markets=markets,
        answers=reply is not None,
        epoch=epoch,
        position=str(position),
        leader=sight.leader.process if sight.leader else None,
        leader_pid=sight.leader.pid if sight.leader else None,
        leader_connected=sight.connected,
        lease_left_ms=sight.remaining_ms,
        standbys=[_standby_report(standby) for standby in standbys],
        snapshot_age_ms=saved[0].age_ms if saved else None,
        waiting_ms=_waiting_ms(client, shard, position),
        input_entries=input_entries,
        event_entries=event_entries,
        outbox_entries=outbox_entries,
        dead_letters=dead_letters,
        passed={name.decode(): value.decode() for name, value in passed.items()},
        halted=halt.reason if (halt := read_halt(client, shard)) else "",
        command_count=reply.command_count if reply else None,
        open_orders=reply.open_orders if reply else None,
        conserved=_adds_up(reply) if reply else None,
        rows=reply.rows if reply else (),
    )


def _standby_report(standby: Standby) -> StandbyReport:
    return StandbyReport(
        process=standby.process, pid=standby.pid, behind_ms=standby.behind_ms, said_ms_ago=standby.age_ms
    )


def _adds_up(reply: AuditReply) -> bool:
    return all(
        available + held + fees == deposited - withdrawn + settled
        for _, available, held, fees, deposited, withdrawn, settled in reply.rows
    )


def _position(client: redis.Redis, shard: int) -> ShardPosition:
    value: Any = client.get(streams.position(shard))
    return ShardPosition.parse(value)


def _waiting_ms(client: redis.Redis, shard: int, position: StreamId) -> int:
    waiting: Any = client.xrange(streams.commands(shard), f"({position}", "+", 1)
    if not waiting:
        return 0
    now: Any = client.time()
    waited: int = now[0] * 1_000 + now[1] // 1_000 - StreamId.parse(waiting[0][0]).ms
    return max(0, waited)


def cores(settings: Settings) -> dict[str, str]:
    """Return which core each engine worker runs, of those that answer."""
    names = [spec.name for spec in engines(settings)]
    try:
        with connect(settings) as client:
            healths = {name: read_health(client, name) for name in names}
    except (redis.RedisError, SettingsError):
        return {}
    return {name: health.core for name, health in healths.items() if health is not None and health.core}


def lags_ms(settings: Settings) -> dict[str, int]:
    """Return the lag of each process in milliseconds, if it can have a backlog and answers."""
    names = [spec.name for spec in (*gateways(settings), *engines(settings), *readers(settings))]
    try:
        with connect(settings) as client, closing(connect_log(settings)) as log:
            healths = {name: read_health(client, name) for name in names}
            waiting = {
                leader.process if (leader := log.lease(shard).leader) else f"engine-{shard}": _waiting_ms(
                    client, shard, _position(client, shard).stream_id
                )
                for shard in range(settings.shard_count)
            }
    except (redis.RedisError, SettingsError):
        return {}
    lag_of = {name: health.lag_ms for name, health in healths.items() if health is not None}
    return {name: lag_ms for name, lag_ms in lag_of.items() if lag_ms is not None} | waiting
