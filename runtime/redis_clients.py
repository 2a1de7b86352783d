"""Creates every connection to Redis, for all topologies.

    redis://[user:password@]host:port/db                               one server (also rediss:// and unix://)
    redis+sentinel://[user:password@]host:port,host:port/SERVICE?db=0  the master that Sentinel names
    redis+cluster://[user:password@]host:port,host:port                a cluster; any of its nodes

`sentinel_username` and `sentinel_password` are those of the sentinels themselves.

A plain connection is to one server: the master of a service, or the node that has a key. It looks this server
up each time it connects. After a failover it is therefore enough to reconnect. A server that can no longer
serve a request (it has become a replica, the slot has moved, replicas are missing) counts as a broken
connection, too.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, NoReturn, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.connection
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry

SENTINEL: Final = "redis+sentinel"
CLUSTER: Final = "redis+cluster"

RedisOutage: Final = (redis.RedisError, RedisClusterException, OSError)
"""The errors of an unusable Redis; the library's cluster errors are not subclasses of `RedisError`."""

_LOOKUP_TIMEOUT_S: Final = 1.0
_SOCKET_TIMEOUT_S: Final = 3.0
"""With replicas, a server that does not answer for this time is given up: a failover may have happened."""
_TIMEOUTS: Final[dict[str, Any]] = {
    "socket_timeout": _SOCKET_TIMEOUT_S,
    "socket_connect_timeout": _LOOKUP_TIMEOUT_S,
}
_CLUSTER_CONNECTIONS_MAX: Final = 200
_PASSING: Final = (
    "READONLY",
    "NOREPLICAS",
    "UNBLOCKED",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
)
_PASSING_TEXTS: Final = (
    *(f"-{code} " for code in _PASSING),
    "WAIT cannot be used with replica",
    "read only replica",
)


_FULL: Final = ("OOM", "MISCONF")
_FULL_TEXTS: Final = tuple(f"-{code} " for code in _FULL)


class FullError(redis.ResponseError):
    """This server refuses the write: its memory or its disk is full.

    Nothing was done, and another server would not help.
    """


class NotNowError(redis.ConnectionError):
    """This server cannot do it now: it is a replica, lacks replicas, or does not have the keys.

    Nothing was done.
    """


class AddressError(ValueError):
    """A URL is not an address of Redis."""


class RedisAddress(NamedTuple):
    """The address of Redis."""

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    """The nodes of the sentinels or of the cluster; empty for one server."""
    service: str
    options: Mapping[str, Any]
    """Options of connections to the servers that hold data."""
    sentinel_options: Mapping[str, Any]

    @property
    def is_cluster(self) -> bool:
        """Whether keys are distributed over several servers."""
        return self.scheme == CLUSTER


def parse_address(url: str) -> RedisAddress:
    """Return the address in `url`.

    Raises:
        AddressError: it is not an address of Redis.
    """
    parts = urlsplit(url)
    if parts.scheme not in (SENTINEL, CLUSTER):
        try:
            return RedisAddress(parts.scheme, (), "", redis.asyncio.connection.parse_url(url), {})
        except ValueError as error:
            raise AddressError(str(error)) from error
    # By hand: `urlsplit` knows one host and one port, and these addresses have several.
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    options = {"username": unquote(user), "password": unquote(password)}
    query = dict(parse_qsl(parts.query))
    sentinel_options = {name: query.pop(f"sentinel_{name}", "") for name in ("username", "password")}
    service = parts.path.strip("/")
    try:
        nodes = tuple(
            (host, int(port)) for host, _, port in (address.rpartition(":") for address in hosts.split(","))
        )
        database = int(query.pop("db", 0))
    except ValueError as error:
        raise AddressError(f"{parts.scheme}: {error}") from error
    if not all(host for host, _ in nodes):
        raise AddressError(f"{parts.scheme}: every server is host:port")
    if (parts.scheme == SENTINEL) != bool(service):
        raise AddressError(
            f"{parts.scheme}: " + ("/SERVICE is missing" if not service else "a cluster has no service")
        )
    if query or (database and parts.scheme == CLUSTER):
        raise AddressError(f"{parts.scheme}: what does {', '.join(query) or 'db'} mean here?")
    given = {name: value for name, value in options.items() if value}
    return RedisAddress(
        parts.scheme,
        nodes,
        service,
        given | ({"db": database} if database else {}),
        {name: value for name, value in sentinel_options.items() if value},
    )


def client_for(url: str, key: str, tether: "Tether | None" = None, **options: Any) -> redis.Redis:
    """Return a plain client of the server that has `key`.

    On a cluster it serves the keys of one hash tag, otherwise all keys. It does not repeat commands by
    itself: a blindly repeated append would append twice.
    """
    address = parse_address(url)
    options = {"retry": Retry(NoBackoff(), 0), "protocol": 2, "redis_connect_func": tether, **options}
    if not address.nodes:
        plain = dict(address.options)
        connection_class = _CONNECTIONS[plain.pop("connection_class", redis.asyncio.Connection)]
        return redis.Redis(
            connection_pool=redis.ConnectionPool(connection_class=connection_class, **plain, **options)
        )
    options = _TIMEOUTS | options
    pool = redis.ConnectionPool(
        connection_class=_FoundConnection, find=_finder(address, key), **address.options, **options
    )
    return redis.Redis(connection_pool=pool)


def pipelined(client: redis.Redis, *commands: Sequence[Any]) -> list[Any]:
    """Send `commands` to a plain client's server at once, and return its answers in order, including errors.

    The library's pipelines do the same, with an overhead as large as a small batch.

    Raises:
        redis.ConnectionError: not all answers arrived.
    """
    return PendingAnswers(client, *commands).answers()


class PendingAnswers:
    """Commands that were sent to a plain client's server; `answers` reads the answers later.

    The client must not be used in between.
    """

    def __init__(self, client: redis.Redis, *commands: Sequence[Any]) -> None:
        """Send `commands`.

        Raises:
            redis.ConnectionError: they could not be sent completely.
        """
        self._pool = client.connection_pool
        self._connection = self._pool.get_connection()
        self._count = 0
        self.add(*commands)

    def add(self, *commands: Sequence[Any]) -> None:
        """Send more commands; their answers follow the others."""
        connection = self._connection
        try:
            connection.send_packed_command(connection.pack_commands(commands))  # type: ignore[no-untyped-call]
        except BaseException:
            self.let_go()
            raise
        self._count += len(commands)

    def answers(self) -> list[Any]:
        """Return the answers in order, including errors.

        Raises:
            redis.ConnectionError: not all answers arrived.
        """
        connection = self._connection
        try:
            answers = [_answer(connection) for _ in range(self._count)]
        except BaseException:
            self.let_go()
            raise
        self._pool.release(connection)
        return answers

    def let_go(self) -> None:
        """Discard the answers and close the connection.

        A late answer must not be taken for the answer to the next command.
        """
        self._connection.disconnect()  # type: ignore[no-untyped-call]
        self._pool.release(self._connection)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def client(url: str, **options: Any) -> redis.Redis:
    """Return a client for any keys."""
    address = parse_address(url)
    if not address.is_cluster:
        return client_for(url, "", **options)
    options = _TIMEOUTS | options
    try:
        # It has the same commands, and sends each to the node of its keys.
        return cast("redis.Redis", _cluster(address, **options))
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


def asyncio_client(url: str, connections_max: int, timeout_s: float) -> "redis.asyncio.Redis":
    """Return a client for any keys; it waits for a connection when all are in use.

    Redis need not be reachable yet.
    """
    address = parse_address(url)
    timeouts: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    if address.is_cluster:
        nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in address.nodes]
        cluster = redis.asyncio.RedisCluster(
            startup_nodes=nodes,
            max_connections=_CLUSTER_CONNECTIONS_MAX,
            protocol=2,
            **address.options,
            **timeouts,
        )
        # The library has no parameter for this. It uses these options for nodes that it discovers later, too.
        cluster.connection_kwargs["connection_class"] = _AsyncConnection
        for node in cluster.nodes_manager.startup_nodes.values():
            node.connection_class = _AsyncConnection
        return cast("redis.asyncio.Redis", cluster)
    if address.nodes:
        pool = redis.asyncio.BlockingConnectionPool(
            max_connections=connections_max,
            timeout=timeout_s,
            connection_class=_FoundAsyncConnection,
            find=asyncio_finder(address, ""),
            **address.options,
            **timeouts,
        )
    else:
        kinds: dict[type | None, type] = {
            None: _AsyncConnection,
            redis.asyncio.SSLConnection: _AsyncSSLConnection,
            redis.asyncio.UnixDomainSocketConnection: _AsyncUnixConnection,
        }
        kind = kinds[address.options.get("connection_class")]
        pool = redis.asyncio.BlockingConnectionPool(
            max_connections=connections_max,
            timeout=timeout_s,
            **{**timeouts, **address.options, "connection_class": kind},
        )
    return redis.asyncio.Redis(connection_pool=pool)


class Tether:
    """Knowledge of a client's one connection, so that a reconnection does not go unnoticed."""

    def __init__(self) -> None:
        self.connections = 0
        """How many connections were made so far; the last one is in use."""
        self.client_id = 0
        """The server's id of the connection; `CLIENT LIST ID` tells whether it still exists."""
        self.is_held = False
        self.greet: Callable[[Any], None] | None = None
        """Called with every new connection after `client_id` is known, before anything else is sent on it."""

    def hold(self) -> None:
        """From now on, fail the next command if the connection is lost, instead of reconnecting."""
        self.is_held = True

    def release(self) -> None:
        """Let commands reconnect by themselves."""
        self.is_held = False

    def __call__(self, connection: Any) -> None:
        """Introduce a new connection to its server; for the library's `redis_connect_func`."""
        if self.is_held:
            self.is_held = False
            raise redis.ConnectionError("the connection to Redis was lost")
        connection.on_connect()
        connection.send_command("CLIENT", "ID")
        self.client_id = int(connection.read_response())
        self.connections += 1
        if self.greet is not None:
            self.greet(connection)


class ShardServers:
    """A plain client for each shard's server; one client if there is only one server.

    Not thread-safe.
    """

    def __init__(
        self, url: str, *, prepare: Callable[[redis.Redis], None] = lambda _: None, **options: Any
    ) -> None:
        """`prepare` is called once with every client that is created."""
        self.are_several = parse_address(url).is_cluster
        self._url = url
        self._prepare = prepare
        self._options = options
        self._clients: dict[int, tuple[redis.Redis, Tether]] = {}

    def of(self, shard: int) -> redis.Redis:
        """Return the client of a shard's server."""
        return self._of(shard)[0]

    def tether(self, shard: int) -> Tether:
        """Return the tether of that client's connection."""
        return self._of(shard)[1]

    def _of(self, shard: int) -> tuple[redis.Redis, Tether]:
        index = shard if self.are_several else 0
        client_and_tether = self._clients.get(index)
        if client_and_tether is None:
            tether = Tether()
            client_and_tether = self._clients[index] = (
                client_for(self._url, f"{{{shard}}}", tether, **self._options),
                tether,
            )
            self._prepare(client_and_tether[0])
        return client_and_tether

    def close(self) -> None:
        """Close every connection."""
        for client, _ in self._clients.values():
            client.close()


def _cluster(address: RedisAddress, **options: Any) -> redis.RedisCluster:
    nodes = [redis.cluster.ClusterNode(host, port) for host, port in address.nodes]  # type: ignore[no-untyped-call]
    return redis.RedisCluster(startup_nodes=nodes, protocol=2, **address.options, **options)


def _finder(address: RedisAddress, key: str) -> "_Find":
    return _ClusterNode(address, key) if address.is_cluster else _sentinel_finder(address)


class _Find(Protocol):
    def __call__(self) -> tuple[str, int]:
        """Return the server's current address; a `redis.ConnectionError` means that there is none now."""
        ...


def _sentinel_finder(address: RedisAddress) -> _Find:
    sentinel = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]
        address.nodes,
        sentinel_kwargs={**_lookup_options(), "retry": Retry(NoBackoff(), 0), **address.sentinel_options},
    )

    def find() -> tuple[str, int]:
        states: list[Mapping[str, Any] | None] = []
        for client in sentinel.sentinels:
            try:
                masters: Any = client.sentinel_masters()
                states.append(masters.get(address.service))
            except (redis.ConnectionError, redis.TimeoutError):
                continue
        return _newest_master(address, states)

    return find


def _newest_master(address: RedisAddress, states: Iterable[Mapping[str, Any] | None]) -> tuple[str, int]:
    """Return the master according to the sentinel that knows the last failover.

    Other sentinels may still name the previous master.
    """
    masters = [state for state in states if state]
    newest = max(masters, key=lambda state: int(state["config-epoch"]), default=None)
    if newest is None or newest["is_sdown"] or newest["is_odown"]:
        raise redis.sentinel.MasterNotFoundError(
            f"no master of {address.service} now, say {len(masters)} sentinels"
        )
    return str(newest["ip"]), int(newest["port"])


class _ClusterNode:
    """Finds the node that has a key."""

    def __init__(self, address: RedisAddress, key: str) -> None:
        self._address = address
        self._key = key
        self._cluster: redis.RedisCluster | None = None
        self._lock = threading.Lock()

    def __call__(self) -> tuple[str, int]:
        with self._lock:
            try:
                if self._cluster is None:
                    self._cluster = _cluster(self._address, **_lookup_options())
                else:
                    self._cluster.nodes_manager.initialize()
                return _place(self._cluster.get_node_from_key(self._key))  # type: ignore[no-untyped-call]
            except RedisClusterException as error:
                raise redis.ConnectionError(str(error)) from error


def asyncio_finder(address: RedisAddress, key: str) -> Callable[[], Awaitable[tuple[str, int]]] | None:
    """Return a function that looks up the server that has `key`; None where there is only one server."""
    if not address.nodes:
        return None
    if address.is_cluster:
        return _AsyncClusterNode(address, key)
    sentinel = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]
        address.nodes,
        sentinel_kwargs={
            **_lookup_options(),
            "retry": redis.asyncio.retry.Retry(NoBackoff(), 0),
            **address.sentinel_options,
        },
    )

    async def find() -> tuple[str, int]:
        states: list[Mapping[str, Any] | None] = []
        for client in sentinel.sentinels:
            try:
                masters: Any = await client.sentinel_masters()
                states.append(masters.get(address.service))
            except (redis.ConnectionError, redis.TimeoutError):
                continue
        return _newest_master(address, states)

    return find


class _AsyncClusterNode:
    """The asyncio version of `_ClusterNode`."""

    def __init__(self, address: RedisAddress, key: str) -> None:
        self._address = address
        self._key = key

    async def __call__(self) -> tuple[str, int]:
        nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in self._address.nodes]
        cluster = redis.asyncio.RedisCluster(
            startup_nodes=nodes, protocol=2, **self._address.options, **_lookup_options()
        )
        try:
            await cluster.initialize()  # type: ignore[unused-awaitable]  # it returns itself
            return _place(cluster.get_node_from_key(self._key))
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error
        finally:
            await cluster.aclose()


def _lookup_options() -> dict[str, Any]:
    return {"socket_timeout": _LOOKUP_TIMEOUT_S, "socket_connect_timeout": _LOOKUP_TIMEOUT_S}


def _place(node: Any) -> tuple[str, int]:
    if node is None:
        raise redis.ConnectionError("no node of the cluster has the key now")
    return str(node.host), int(node.port)


def is_passing(error: object) -> bool:
    """Return whether a Redis error means that this server cannot do it now."""
    text = str(error)
    return text.startswith(_PASSING) or any(part in text for part in _PASSING_TEXTS)


def is_full(error: object) -> bool:
    """Return whether a Redis error means that the server's memory or disk is full."""
    text = str(error)
    return (
        isinstance(error, redis.OutOfMemoryError)
        or text.startswith(_FULL)
        or any(part in text for part in _FULL_TEXTS)
    )


class _Found(redis.Connection):
    """A connection that looks its server up each time it connects, if the topology has a lookup."""

    def __init__(self, *, find: _Find | None = None, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._find = find

    def _connect(self) -> Any:
        if self._find is not None:
            self.host, self.port = self._find()
        return super()._connect()  # type: ignore[no-untyped-call]

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Return the server's answer; an answer that it cannot do this now becomes a connection error."""
        try:
            return super().read_response(*arguments, **options)
        except redis.ResponseError as error:
            _raise_passing(error)
            raise


class _FoundConnection(_Found):
    """Over TCP."""


class _FoundSSLConnection(_Found, redis.SSLConnection):
    """Over TLS."""


class _LossAware(redis.asyncio.connection.AbstractConnection):
    """A connection that reports its loss in the middle of a command with the library's own error.

    It does not lose cancellations.

    Two other errors would otherwise reach its callers. uvloop raises RuntimeError for a transport that has
    just been closed (asyncio's own loop drops the data). And when the library itself disconnects a connection
    that another task is using, as a cluster's client does when a node fails, that task finds None instead of
    the stream.

    The library sends with `asyncio.wait_for`, which before Python 3.12 drops a cancellation that arrives at
    the moment when the awaited operation completes. A task that calls Redis in a loop would then never end.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send a command.

        Raises:
            redis.ConnectionError: the connection is lost.
        """
        task = asyncio.current_task()
        canceled = task.cancelling() if task is not None else 0
        with _lost_in_between(self):
            await super().send_packed_command(command, check_health)
        if task is not None and task.cancelling() > canceled:
            await self.disconnect(nowait=True)  # nobody will read the reply
            raise asyncio.CancelledError

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Return the server's answer.

        Raises:
            redis.ConnectionError: the connection is lost.
        """
        with _lost_in_between(self):
            return await super().read_response(*arguments, **options)


class _AsyncConnection(_LossAware, redis.asyncio.Connection):
    """Over TCP."""


class _AsyncSSLConnection(_LossAware, redis.asyncio.SSLConnection):
    """Over TLS."""


class _AsyncUnixConnection(_LossAware, redis.asyncio.UnixDomainSocketConnection):
    """Over a socket of this machine."""


@contextmanager
def _lost_in_between(connection: redis.asyncio.connection.AbstractConnection) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AttributeError) as error:
        if connection.is_connected:
            raise
        raise redis.ConnectionError(f"the connection was lost: {error}") from error


class _FoundAsyncConnection(_AsyncConnection):
    """The asyncio version of `_Found`; it disconnects from a server that has become a replica."""

    def __init__(self, *, find: Callable[[], Awaitable[tuple[str, int]]], **options: Any) -> None:
        super().__init__(**options)
        self._find = find

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Return the server's answer."""
        try:
            return await super().read_response(*arguments, **options)
        except redis.ResponseError as error:
            if isinstance(error, redis.ReadOnlyError) or is_passing(error):
                await self.disconnect()
            _raise_passing(error)
            raise


_CONNECTIONS: Final[Mapping[type, type]] = {
    redis.asyncio.Connection: _FoundConnection,
    redis.asyncio.SSLConnection: _FoundSSLConnection,
    redis.asyncio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}


def _raise_passing(error: redis.ResponseError) -> None:
    if is_full(error):
        _raise(FullError(f"Redis is full: {error}"), error)
    # The library strips the error codes that it knows and has classes for them.
    translated = (
        redis.ReadOnlyError,
        redis.exceptions.ClusterDownError,
        redis.exceptions.TryAgainError,
        redis.exceptions.AskError,
    )
    if isinstance(error, translated) or is_passing(error):
        _raise(NotNowError(f"{type(error).__name__}: {error}"), error)


def _raise(error: Exception, cause: Exception) -> NoReturn:
    raise error from cause
