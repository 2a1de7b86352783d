"""Every Redis key, stream, channel and consumer group, in one place.

All keys of a shard carry its hash tag `{k}`, so that a script or a transaction on them stays on one node of a
cluster. A market's read models carry the tag of the market's shard.

| key                       | kind     | written by       | holds                                                         |
| ------------------------- | -------- | ---------------- | ------------------------------------------------------------- |
| `in:{k}`                  | stream   | gateways, shards | command frames and message frames; trimmed to the older snapshot |
| `query:{k}`               | stream   | gateways         | query frames; no part of the log                              |
| `pos:{k}`                 | string   | shard            | `epoch|stream_id`: who may write, and up to where `in` is done |
| `pos:{k}:checksum`        | string   | shard            | `stream_id|checksum`: what the leader's state came to with the last commit |
| `ev:{k}`                  | stream   | shard            | event frames; trimmed to what all its readers have passed     |
| `out:{k}`                 | stream   | shard            | message frames, by target shard; removed when delivered       |
| `lease:{k}`               | string   | shard            | `epoch|…`: who leads, see protocol/lease.py; expires when it falls silent |
| `config:{k}`              | string   | shard            | how the shard and its own markets are configured: see protocol/listing.py |
| `standbys:{k}`            | hash     | standbys         | process -> its pid, how far it has followed, and when it said so |
| `snapshots:{k}`           | list     | shard, standbys  | the two newest `ShardSnapshot`s, newest first: `saved|stream_id|time_ms|name` |
| `snapshot:{k}:NAME`       | list     | shard, standbys  | the bytes of one of them, in pieces that hold nobody up        |
| `dead:{k}`                | stream   | everyone         | what could not be understood: source, id, reason, payload     |
| `halted:{k}`              | string   | shard            | why the shard stopped; there only while it stands still       |
| `skip:{k}`                | string   | operators        | the `SkipEntry` that its leader follows next: an entry to pass over  |
| `skips:{k}`               | hash     | shard            | id of an entry of `in:{k}` that was passed over -> its `SkipEntry`   |
| `passed:{k}`              | hash     | feeds, persist   | reader -> the id in `ev:{k}` (`archive`: in `in:{k}`) it has passed |
| `guard:{k}`               | string   | persist          | `run id|reason`: see stream_log/lost_tail_note.py                         |
| `schema:{0}`              | string   | persist          | number of the newest schema that was seen: see runtime/schema.py |
| `feeds:{k}`               | hash     | feeds            | feeds' own position and saved state                           |
| `depth:{k}:SYMBOL`        | string   | feeds            | the base: the book by price levels, about a second ago        |
| `depth_diffs:{k}:SYMBOL`  | list     | feeds            | the newest `DepthDiff`s, newest first; they follow on the base |
| `book_ticker:{k}:SYMBOL`  | string   | feeds            | best bid and ask                                              |
| `ticker:{k}:SYMBOL`       | string   | feeds            | the 24 h ticker                                               |
| `trades:{k}:SYMBOL`       | list     | feeds            | the newest trades, newest first                               |
| `candles:{k}:SYMBOL`      | hash     | feeds            | interval -> the candle still open                             |
| `closed_candles:{k}:SYMBOL:INTERVAL` | list | feeds     | the newest final candles, newest first                        |
| `pub:SYMBOL:KIND`         | channel  | feeds            | public market data of one kind                                |
| `pub:second:{k}`          | channel  | feeds            | the shard's time (ms), once a second, after all that came before it |
| `account:ID`              | channel  | feeds            | an account's own events                                       |
| `reply:NAME`              | channel  | shards           | reply frames for the waiter NAME                              |
| `api_key:2:KEY`           | string   | functions        | read model of an API key, or a ticket; expires                |
| `session:HASH`            | string   | functions        | a signed-in session; expires                                  |
| `revocations:{0}`         | stream   | functions        | the keys and sessions that were revoked, newest last: docs/decisions/0036 |
| `attempts:OF`             | string   | functions        | `count|time_ms`: attempts to sign in, and when the next may be; expires |
| `rate:{k}:KIND:OWNER:WINDOW` | hash  | gateways, edges, feeds | a pot: what is used and taken of a limit (adapters/shares.py) |
| `rate:words`              | channel  | gateways, edges, feeds | the pots that have changed                              |
| `bans:{0}`                | stream   | gateways, edges  | the networks that were banned, until when, and how often      |
| `listen_key:KEY`          | string   | functions        | whose events the key opens, and what it falls with; expires   |
| `listen_key_of:ID:NAME`   | string   | functions        | the newest listenKey of a credential; expires                 |
| `health:NAME`             | string   | every process    | its last heartbeat, also under NAME@HOST.PID; expires         |
| `settings:{0}`            | hash     | every process    | process -> its shared settings, and when it said so: runtime/agreement.py |
| `waited:{k}`              | string   | readers of `ev`  | with replicas: the entry that a reader last waited for, until they had it |
| `{dramatiq}:…`            | several  | persist          | Dramatiq's queue of nudges; one hash tag, so its script works on a cluster |
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

JOBS_NAMESPACE: Final = "{dramatiq}"

_engine_number: Final = re.compile(r"(?<=^engine-)(\d+)")

COMMANDS_FIELD: Final = b"c"
MESSAGES_FIELD: Final = b"m"
EVENTS_FIELD: Final = b"e"
QUERIES_FIELD: Final = b"q"
SKIPPED_FIELD: Final = b"s"
"""Of an entry that was passed over, as it is read and archived: the frame of the `SkipEntry`."""
SKIPPED_ENTRY_FIELD: Final = b"o"
"""Beside `SKIPPED_FIELD`: the fields that the entry has in `in:{k}`, in msgpack."""

ENGINE_GROUP: Final = "engine"
"""The consumer group on `in:{k}`. Its cursor moves with `pos:{k}`, in the same script, so every tool that
knows consumer groups sees what is committed and what waits. The worker itself reads from `pos`: reading as a
consumer would be a write, and cost a disk sync."""


class EventReader(StrEnum):
    """Who reads `ev:{k}`; also the fields of `passed:{k}`."""

    FEEDS = "feeds"
    PERSIST = "persist"


ARCHIVE_READER: Final = "archive"
"""The field of `passed:{k}` that says up to where `in:{k}` is archived.

Without it nobody archives, and nothing waits for it.
"""
TRIMMED: Final = "trimmed"
"""The field of `passed:{k}` that says which entries of `in:{k}`, those before it, were removed.

Without it none were.
"""


class AfterLoss(StrEnum):
    """What `exchange restore` does with a key when it rebuilds Redis from the database."""

    REPLACED = "replaced"
    """Removed; what is needed of it is made anew, by the restore or by the process that writes it."""
    KEPT = "kept"
    """Left alone: it says nothing about the shards' state, or expires by itself."""


KEYS: Final[Mapping[str, AfterLoss]] = {
    "in": AfterLoss.REPLACED,
    "query": AfterLoss.REPLACED,
    "pos": AfterLoss.REPLACED,
    "ev": AfterLoss.REPLACED,
    "out": AfterLoss.REPLACED,
    "lease": AfterLoss.REPLACED,
    "config": AfterLoss.REPLACED,
    "standbys": AfterLoss.REPLACED,
    "snapshots": AfterLoss.REPLACED,
    "snapshot": AfterLoss.REPLACED,
    "dead": AfterLoss.KEPT,  # for whoever finds out what went wrong
    "halted": AfterLoss.REPLACED,
    "skip": AfterLoss.REPLACED,  # it names an entry that is there no more
    "skips": AfterLoss.REPLACED,  # the archive has them beside their entries
    "passed": AfterLoss.REPLACED,
    "guard": AfterLoss.REPLACED,
    "schema": AfterLoss.KEPT,  # it is about the database
    "feeds": AfterLoss.REPLACED,
    "depth": AfterLoss.REPLACED,
    "depth_diffs": AfterLoss.REPLACED,
    "book_ticker": AfterLoss.REPLACED,
    "ticker": AfterLoss.REPLACED,
    "trades": AfterLoss.REPLACED,
    "candles": AfterLoss.REPLACED,
    "closed_candles": AfterLoss.REPLACED,
    "api_key": AfterLoss.REPLACED,  # it may be older than the database's truth, and so may sessions
    "session": AfterLoss.REPLACED,
    "revocations": AfterLoss.KEPT,
    "attempts": AfterLoss.KEPT,
    "rate": AfterLoss.KEPT,
    "bans": AfterLoss.KEPT,
    "listen_key": AfterLoss.KEPT,
    "listen_key_of": AfterLoss.KEPT,
    "health": AfterLoss.KEPT,
    "settings": AfterLoss.KEPT,  # of the processes that run
    "waited": AfterLoss.REPLACED,
    JOBS_NAMESPACE: AfterLoss.KEPT,  # a nudge too many does no harm
}
"""The first part of every key's name.

A test compares them with the table above; channels hold nothing, so they are not here.
"""


def after_loss(key: str) -> AfterLoss:
    """Return what a restore does with a key; what is not ours is kept."""
    return KEYS.get(key.partition(":")[0], AfterLoss.KEPT)


class MarketDataKind(StrEnum):
    """The last part of a public channel's name; payloads are in market_data.py."""

    TRADE = "trade"
    DEPTH = "depth"
    BOOK_TICKER = "book_ticker"
    TICKER = "ticker"
    CANDLE = "candle"


def commands(shard: int) -> str:
    """`in:{k}`."""
    return f"in:{{{shard}}}"


def queries(shard: int) -> str:
    """`query:{k}`."""
    return f"query:{{{shard}}}"


def position(shard: int) -> str:
    """`pos:{k}`."""
    return f"pos:{{{shard}}}"


def checksum(shard: int) -> str:
    """`pos:{k}:checksum`. Who may write the position may write it, and whoever removes the one removes the
    other.
    """
    return f"pos:{{{shard}}}:checksum"


def takeovers(shard: int) -> str:
    """`pos:{k}:takeovers`: the position of the last takeover, and how many before it found the same,
    "ID|COUNT".
    """
    return f"pos:{{{shard}}}:takeovers"


def events(shard: int) -> str:
    """`ev:{k}`."""
    return f"ev:{{{shard}}}"


def outbox(shard: int) -> str:
    """`out:{k}`."""
    return f"out:{{{shard}}}"


def snapshots(shard: int) -> str:
    """`snapshots:{k}`."""
    return f"snapshots:{{{shard}}}"


def snapshot(shard: int, name: str) -> str:
    """`snapshot:{k}:NAME`."""
    return f"snapshot:{{{shard}}}:{name}"


def lease(shard: int) -> str:
    """`lease:{k}`."""
    return f"lease:{{{shard}}}"


def configuration(shard: int) -> str:
    """`config:{k}`."""
    return f"config:{{{shard}}}"


def standbys(shard: int) -> str:
    """`standbys:{k}`."""
    return f"standbys:{{{shard}}}"


def dead_letters(shard: int) -> str:
    """`dead:{k}`."""
    return f"dead:{{{shard}}}"


def halted(shard: int) -> str:
    """`halted:{k}`."""
    return f"halted:{{{shard}}}"


def skip(shard: int) -> str:
    """`skip:{k}`."""
    return f"skip:{{{shard}}}"


def skips(shard: int) -> str:
    """`skips:{k}`."""
    return f"skips:{{{shard}}}"


def passed(shard: int) -> str:
    """`passed:{k}`."""
    return f"passed:{{{shard}}}"


def guard(shard: int) -> str:
    """`guard:{k}`."""
    return f"guard:{{{shard}}}"


def schema() -> str:
    """`schema:{0}`; with a hash tag so that all who may read shards' keys may read it."""
    return "schema:{0}"


def feeds_state(shard: int) -> str:
    """`feeds:{k}`."""
    return f"feeds:{{{shard}}}"


def depth(shard: int, symbol: str) -> str:
    """`depth:{k}:SYMBOL`; `shard` is the market's."""
    return f"depth:{{{shard}}}:{symbol}"


def depth_diffs(shard: int, symbol: str) -> str:
    """`depth_diffs:{k}:SYMBOL`; `shard` is the market's."""
    return f"depth_diffs:{{{shard}}}:{symbol}"


def book_ticker(shard: int, symbol: str) -> str:
    """`book_ticker:{k}:SYMBOL`; `shard` is the market's."""
    return f"book_ticker:{{{shard}}}:{symbol}"


def ticker(shard: int, symbol: str) -> str:
    """`ticker:{k}:SYMBOL`; `shard` is the market's."""
    return f"ticker:{{{shard}}}:{symbol}"


def trades(shard: int, symbol: str) -> str:
    """`trades:{k}:SYMBOL`; `shard` is the market's."""
    return f"trades:{{{shard}}}:{symbol}"


def candles(shard: int, symbol: str) -> str:
    """`candles:{k}:SYMBOL`; `shard` is the market's."""
    return f"candles:{{{shard}}}:{symbol}"


def closed_candles(shard: int, symbol: str, interval: str) -> str:
    """`closed_candles:{k}:SYMBOL:INTERVAL`; `shard` is the market's."""
    return f"closed_candles:{{{shard}}}:{symbol}:{interval}"


def market_data(symbol: str, kind: MarketDataKind) -> str:
    """`pub:SYMBOL:KIND`, a channel."""
    return f"pub:{symbol}:{kind}"


def second(shard: int) -> str:
    """`pub:second:{k}`, a channel. No market is called so: their names are in capitals."""
    return f"pub:second:{{{shard}}}"


def account(account_id: int) -> str:
    """`account:ID`, a channel."""
    return f"account:{account_id}"


def replies(reply_to: str) -> str:
    """`reply:NAME`, a channel."""
    return f"reply:{reply_to}"


def api_key(key: str) -> str:
    """`api_key:2:KEY`; releases before scopes wrote `api_key:KEY`, which says nothing of them."""
    return f"api_key:2:{key}"


def session(token_hash: str) -> str:
    """`session:HASH`, where HASH is the SHA-256 of the token in hex."""
    return f"session:{token_hash}"


def revocations() -> str:
    """`revocations:{0}`; with a hash tag, as `schema` has."""
    return "revocations:{0}"


def attempts(of: str) -> str:
    """`attempts:OF`, where OF is an account, a network, or both."""
    return f"attempts:{of}"


def rate(shard: int, kind: str, owner: object, window: int) -> str:
    """`rate:{k}:KIND:OWNER:WINDOW`.

    An account's is where its shard is, a network's on any that is always the same.
    """
    return f"rate:{{{shard}}}:{kind}:{owner}:{window}"


RATE_WORDS: Final = "rate:words"
"""A channel: who says it, and then a line for each pot that has changed, `KEY USED TAKEN VERSION WANTED`
(adapters/shares.py). WANTED is what somebody needed and did not get, else 0."""
ORDERS_10S: Final = "orders10s"
"""The kind of the pot of an account's unfilled orders in ten seconds."""
ORDERS_DAY: Final = "ordersday"
"""The same in a day (UTC)."""
ORDER_WINDOWS_MS: Final[Mapping[str, int]] = {ORDERS_10S: 10_000, ORDERS_DAY: 86_400_000}


def bans() -> str:
    """`bans:{0}`; with a hash tag, as `schema` has."""
    return "bans:{0}"


def listen_key(key: str) -> str:
    """`listen_key:KEY`."""
    return f"listen_key:{key}"


def listen_key_of(account_id: int, credential: str) -> str:
    """`listen_key_of:ID:NAME`."""
    return f"listen_key_of:{account_id}:{credential}"


def waited(shard: int) -> str:
    """`waited:{k}`."""
    return f"waited:{{{shard}}}"


def cluster_settings() -> str:
    """`settings:{0}`."""
    return "settings:{0}"


def health(process: str) -> str:
    """`health:NAME`; an engine's number is a hash tag, so that its heartbeat goes where its shard is."""
    return "health:" + _engine_number.sub(r"{\1}", process)


def instance_health(process: str, instance: str) -> str:
    """`health:NAME@HOST.PID`, where `health:NAME` is; `instance` is the part behind the `@`."""
    key = health(process)
    return f"{key}@{instance}" if "{" in key else f"health:{{{key}}}@{instance}"


def process_of_health(key: str) -> str:
    """Return NAME, or NAME@HOST.PID, of a heartbeat's key."""
    return key.replace("{", "").replace("}", "").removeprefix("health:").removeprefix("health:")


def shard_of(key: str) -> int:
    """Return the shard whose hash tag a key carries."""
    return int(key[key.index("{") + 1 : key.index("}")])
