"""The feeds' storage in Redis: the log they read, and the one script that writes all their outputs.

`feeds:{k}` is a hash: `epoch` (the process that may write: the one that started last), `published_id` and
`published_time` (the entry and time up to which everything has been written and published), `state` and the
window's chunks (the result of `ShardFeeds.save`), `state_id` (the entry of the state).

With a separate Redis for data that can be lost, the outputs and the published position are there, and the
state is beside the log. If the former is lost, all outputs about a state are rewritten from the latter, and
the outputs about events since the last save are repeated.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import redis
import structlog

from feeds.state import CLOSED_CANDLES_MAX, DIFFS_MAX, TRADES_MAX, Outputs, SavedState
from protocol import streams
from protocol.codec import LaterFormatError
from protocol.listing import decode_configuration
from protocol.market import Market
from protocol.stream_id import STREAM_START, StreamId
from protocol.streams import EVENTS_FIELD, EventReader
from runtime.redis_clients import ShardServers
from runtime.redis_scripts import load_script
from stream_log.interface import DeadLetter, Fenced, Rewound
from stream_log.redis_log import RedisStreamLog, keep_unparsed

_COMMIT: Final = load_script("feeds", "commit_published", is_reserved=True, RATE_WORDS=streams.RATE_WORDS)
_TAKE_OVER: Final = load_script(
    "feeds", "take_feeds_over", is_reserved=True, READER=EventReader.FEEDS, STREAM_START=str(STREAM_START)
)


_KEEP: Final = load_script("feeds", "keep_state", is_reserved=True)
_ENTER: Final = load_script("feeds", "enter_cache")


ITEMS_PER_COMMAND = 1_000
"""A script passes at most 8,000 arguments to a command, limited by Lua's stack."""

_log = structlog.get_logger()


class Saved(NamedTuple):
    """The data found at a start."""

    published_id: StreamId
    published_time: int
    state: bytes
    """Empty if nothing was ever saved."""
    chunks: dict[str, bytes]
    is_lost: bool = False
    """Whether the outputs for readers are lost."""


class Mark(NamedTuple):
    """The entry and the time (ms) up to which everything was published."""

    stream_id: StreamId
    time: int

    def arguments(self) -> tuple[str, int]:
        """Return the arguments for scripts."""
        return str(self.stream_id), self.time


class FeedsStore:
    """The feeds' access to Redis; not thread-safe."""

    def __init__(
        self,
        client: redis.Redis,
        servers: ShardServers | None = None,
        replicas_min: int = 0,
        cache: ShardServers | None = None,
    ) -> None:
        """Use `client`, which must neither decode responses nor repeat commands by itself.

        With `servers`, each shard's client of these.

        `cache` has the data that can be lost, if that is another Redis.
        """
        self._redis = client
        self._servers = servers
        self._log = RedisStreamLog(client, servers, replicas_min)
        self._cache = cache
        self._commit = client.register_script(_COMMIT)
        self._epochs: dict[int, bytes] = {}

    @classmethod
    def connect(cls, url: str, replicas_min: int = 0, cache_url: str = "") -> "FeedsStore":
        """Return the store on the Redis at `url`.

        Events are read only when `replicas_min` replicas have them.

        Data that can be lost is in the Redis at `cache_url`; empty: in the same.
        """
        servers = ShardServers(url, prepare=keep_unparsed, socket_keepalive=True)
        cache = ShardServers(cache_url, socket_keepalive=True) if cache_url not in ("", url) else None
        return cls(servers.of(0), servers, replicas_min, cache)

    def _at(self, shard: int) -> redis.Redis:
        return self._servers.of(shard) if self._servers is not None else self._redis

    def take_over(self, shard: int) -> int:
        """Make this process the only writer of the shard's feeds; return its epoch."""
        keys = (streams.feeds_state(shard), streams.passed(shard))
        epoch: Any = self._at(shard).eval(_TAKE_OVER, len(keys), *keys)
        self._epochs[shard] = b"%d" % epoch
        if self._cache is not None:
            self._enter(shard, self._cache.of(shard))
        return int(epoch)

    def _enter(self, shard: int, cache: redis.Redis) -> None:
        if not cache.eval(_ENTER, 1, streams.feeds_state(shard), self._epochs[shard]):
            raise Fenced(f"another feeds process has taken over shard {shard}")

    def load(self, shard: int) -> Saved:
        """Return the saved data.

        Raises:
            Fenced: another process has taken over.
        """
        fields: Any = self._at(shard).hgetall(streams.feeds_state(shard))
        if fields.pop(b"epoch", None) != self._epochs[shard]:
            raise Fenced(f"another feeds process has taken over shard {shard}")
        state_id = _id_of(fields.pop(b"state_id", None))
        published, is_lost = (
            Mark(_id_of(fields.pop(b"published_id", None)), int(fields.pop(b"published_time", 0))),
            False,
        )
        if self._cache is not None:
            published, is_lost = self._load_published(shard, self._cache.of(shard), state_id, published)
        state, chunks = fields.pop(b"state", b""), {name.decode(): chunk for name, chunk in fields.items()}
        return Saved(*published, state, chunks, is_lost)

    def _load_published(
        self, shard: int, cache: redis.Redis, state_id: StreamId, log_mark: Mark
    ) -> tuple[Mark, bool]:
        """Return the published position, and whether the outputs are lost.

        If they are, it is the state's position, which is recorded. Outputs of a log that has lost its end
        since do not count: the entries that follow now are different. `log_mark` is the position in the log's
        own Redis, if that had both roles before.
        """
        self._enter(shard, cache)
        key = streams.feeds_state(shard)
        values: Any = cache.hmget(key, ["published_id", "published_time"])
        published = Mark(_id_of(values[0]), int(values[1] or 0))
        end = self._log.last_id(streams.events(shard))
        if state_id <= published.stream_id <= end:
            return published, False
        published = max(log_mark, Mark(state_id, 0), key=lambda mark: mark.stream_id)
        _log.warning("what was published is lost", shard=shard, goes_on_from=str(published.stream_id))
        cache.hset(key, mapping={"published_id": str(published.stream_id), "published_time": published.time})
        return published, True

    def markets(self, shard: int) -> list[Market] | None:
        """Return the markets in the shard's configuration; None: there is none that this program can read."""
        return markets_of(self._log.configuration(shard))

    def read(
        self, after: Mapping[int, StreamId], count: int, block_ms: int
    ) -> list[tuple[int, StreamId, bytes]]:
        """Return (shard, id, frame) of up to `count` entries of each shard; wait up to `block_ms` for one."""
        shards = {streams.events(shard): shard for shard in after}
        entries = self._log.read({name: after[shard] for name, shard in shards.items()}, count, block_ms)
        return [
            (shards[entry.stream], entry.stream_id, entry.fields.get(EVENTS_FIELD, b"")) for entry in entries
        ]

    def commit(
        self,
        shard: int,
        expected: Mark,
        following: Mark,
        outputs: Outputs,
        dead_letters: Sequence[DeadLetter] = (),
        saved: SavedState | None = None,
    ) -> None:
        """Write and publish `outputs`, and move from `expected` to `following`; all or nothing.

        Raises:
            Fenced: another process has taken over. Nothing was written.
            Rewound: no other process has, but the last writes are lost. Nothing was written.
        """
        output_commands = _commands(outputs)
        letters = [_dead_letter(shard, letter) for letter in dead_letters]
        state_commands = _save(shard, following.stream_id, saved) if saved is not None else []
        if self._cache is None:
            self._say(
                shard, self._at(shard), expected, following, [*output_commands, *letters, *state_commands]
            )
            return
        # In this order a process that dies in between repeats a dead letter, and never publishes events that
        # the state already contains.
        self._keep(shard, letters)
        self._say(shard, self._cache.of(shard), expected, following, output_commands)
        self._keep(shard, state_commands)

    def _keep(self, shard: int, commands: Sequence[tuple[Any, ...]]) -> None:
        if not commands:
            return
        state = streams.feeds_state(shard)
        keys = list(dict.fromkeys((state, *(command[1] for command in commands))))
        arguments = [part for command in commands for part in (len(command), *command)]
        if not self._at(shard).eval(_KEEP, len(keys), *keys, self._epochs[shard], *arguments):
            raise Fenced(f"another feeds process has taken over shard {shard}")

    def _say(
        self,
        shard: int,
        client: redis.Redis,
        expected: Mark,
        following: Mark,
        commands: Sequence[tuple[Any, ...]],
    ) -> None:
        arguments: list[Any] = [self._epochs[shard], *expected.arguments(), *following.arguments()]
        for command in commands:
            arguments += (len(command), *command)
        keys = list(dict.fromkeys(command[1] for command in commands if command[0] != "PUBLISH"))
        state = streams.feeds_state(shard)
        if not self._commit(keys=[state, *keys], args=arguments, client=client):
            if client.hget(state, "epoch") in (self._epochs[shard], None):
                raise Rewound(f"shard {shard}: not all that was published is there any more")
            raise Fenced(f"another feeds process has taken over shard {shard}")

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
        if self._servers is not None:
            self._servers.close()
        if self._cache is not None:
            self._cache.close()


def _id_of(value: bytes | None) -> StreamId:
    return StreamId.parse(value) if value is not None else STREAM_START


def markets_of(value: bytes | None) -> list[Market] | None:
    """Return the markets in the value of `config:{k}`; None: none are readable."""
    if value is None:
        return None
    try:
        configuration = decode_configuration(value)
    except (msgspec.MsgspecError, LaterFormatError) as error:
        _log.error("the configuration cannot be read", reason=str(error))
        return None
    return (
        [definition.market for definition in configuration.markets]
        if configuration.config is not None
        else None
    )


def _commands(outputs: Outputs) -> list[tuple[Any, ...]]:
    commands: list[tuple[Any, ...]] = [("DEL", key) for key in outputs.removed]
    commands += [("SET", key, value) for key, value in outputs.values.items()]
    for key, trades in outputs.trades.items():
        commands += _in_parts("LPUSH", key, [(bytes(trade),) for trade in trades])
        commands.append(("LTRIM", key, 0, TRADES_MAX - 1))
    for key, candles in outputs.candles.items():
        commands += _in_parts("HSET", key, list(candles.items()))
    for key, diff in outputs.diffs.items():
        commands += (("LPUSH", key, diff), ("LTRIM", key, 0, DIFFS_MAX - 1))
    for key, closed in outputs.closed_candles.items():
        commands += _in_parts("LPUSH", key, [(candle,) for candle in closed[-CLOSED_CANDLES_MAX:]])
        commands.append(("LTRIM", key, 0, CLOSED_CANDLES_MAX - 1))
    commands += [("FORGIVE", key, *forgiven) for key, forgiven in outputs.forgiven.items()]
    commands += [("PUBLISH", channel, payload) for channel, payload in outputs.messages]
    return commands


def _in_parts(name: str, key: str, items: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield the commands that add all items to `key`, in parts."""
    for at in range(0, len(items), ITEMS_PER_COMMAND):
        yield name, key, *(part for item in items[at : at + ITEMS_PER_COMMAND] for part in item)


def _dead_letter(shard: int, letter: DeadLetter) -> tuple[Any, ...]:
    fields = (part for pair in letter.fields().items() for part in pair)
    return "XADD", streams.dead_letters(shard), "*", *fields


def _save(shard: int, position: StreamId, saved: SavedState) -> list[tuple[Any, ...]]:
    key = streams.feeds_state(shard)
    return [
        ("HSET", key, "state", saved.state, "state_id", str(position)),
        *_in_parts("HSET", key, list(saved.chunks.items())),
        *_in_parts("HDEL", key, [(name,) for name in saved.expired]),
        ("HSET", streams.passed(shard), EventReader.FEEDS, str(position)),
    ]
