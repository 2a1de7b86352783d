"""Every Redis key, stream, channel and consumer group, in one place.

All keys of a shard carry its hash tag `{k}`, so that a script or a transaction on them stays on one node of a
cluster. A market's read models carry the tag of the market's shard.

| key                      | kind    | written by      | contents                                          |
| ------------------------ | ------- | --------------- | ------------------------------------------------- |
| `in:{k}`                 | stream  | gateways, shard | command and message frames since the older snapshot |
| `query:{k}`              | stream  | gateways        | query frames; not part of the log                 |
| `pos:{k}`                | string  | shard           | `epoch|stream_id`: writer; committed up to        |
| `pos:{k}:checksum`       | string  | shard           | `stream_id|checksum` of the state                 |
| `ev:{k}`                 | stream  | shard           | event frames that not all readers have passed     |
| `out:{k}`                | stream  | shard           | message frames by target shard, until delivered   |
| `lease:{k}`              | string  | shard           | `epoch|…`: the leader (lease.py); expires         |
| `config:{k}`             | string  | shard           | configuration of shard and markets (listing.py)   |
| `standbys:{k}`           | hash    | standbys        | process -> pid, position, time of announcement    |
| `snapshots:{k}`          | list    | shard, standbys | the two newest: `saved|stream_id|time_ms|name`    |
| `snapshot:{k}:NAME`      | list    | shard, standbys | the bytes of a `ShardSnapshot`, in small pieces   |
| `dead:{k}`               | stream  | everyone        | undecodable data: source, id, reason, payload     |
| `halted:{k}`             | string  | shard           | why the shard has halted; only while it is halted |
| `skip:{k}`               | string  | operators       | the `SkipEntry` that the leader follows next      |
| `skips:{k}`              | hash    | shard           | id of a skipped `in:{k}` entry -> `SkipEntry`     |
| `passed:{k}`             | hash    | feeds, persist  | reader -> id passed in `ev` (`archive`: in `in`)  |
| `guard:{k}`              | string  | persist         | `run id|reason`: stream_log/lost_tail_note.py     |
| `schema:{0}`             | string  | persist         | the newest schema number seen: runtime/schema.py  |
| `feeds:{k}`              | hash    | feeds           | the feeds' own position and saved state           |
| `depth:{k}:SYMBOL`       | string  | feeds           | the base: price levels, about a second old        |
| `depth_diffs:{k}:SYMBOL` | list    | feeds           | the diffs after the base, newest first            |
| `book_ticker:{k}:SYMBOL` | string  | feeds           | best bid and ask                                  |
| `ticker:{k}:SYMBOL`      | string  | feeds           | the 24 h ticker                                   |
| `trades:{k}:SYMBOL`      | list    | feeds           | the newest trades, newest first                   |
| `candles:{k}:SYMBOL`     | hash    | feeds           | interval -> the open candle                       |
| `closed_candles:{k}:SYMBOL:INTERVAL` | list    | feeds           | closed candles, newest first            |
| `pub:SYMBOL:KIND`        | channel | feeds           | public market data of one kind                    |
| `pub:second:{k}`         | channel | feeds           | the shard's time (ms), each second                |
| `account:ID`             | channel | feeds           | an account's own events                           |
| `repeat:{k}`             | channel | edges           | which accounts' events feeds are to repeat        |
| `repeated:NAME:{k}`      | channel | feeds           | the events that the edge NAME has asked for       |
| `wanted:{k}`             | channel | gateways        | that a question waits for the database            |
| `reply:NAME`             | channel | shards          | reply frames for the waiter NAME                  |
| `api_key:2:KEY`          | string  | functions       | read model of an API key, or a ticket; expires    |
| `session:HASH`           | string  | functions       | a session; expires                                |
| `revocations:{0}`        | stream  | functions       | revoked keys and sessions (docs/decisions/0036)   |
| `attempts:OF`            | string  | functions       | `count|time_ms`: sign-ins, next allowed; expires  |
| `rate:{k}:KIND:OWNER:WINDOW` | hash    | limits          | a pot of a limit (adapters/shares.py)           |
| `rate:words`             | channel | limits          | the pots that have changed                        |
| `bans:{0}`               | stream  | gateways, edges | banned networks, until when, and how often        |
| `listen_key:KEY`         | string  | functions       | the account and credential of the key; expires    |
| `listen_key_of:ID:NAME`  | string  | functions       | the newest listenKey of a credential; expires     |
| `health:NAME`            | string  | every process   | last heartbeat; also NAME@HOST.PID; expires       |
| `settings:{k}`           | hash    | every process   | process -> its settings (runtime/agreement.py)    |
| `waited:{k}`             | string  | readers of `ev` | the last entry that replicas had to confirm       |
| `{dramatiq}:…`           | several | persist         | Dramatiq's queue of nudges; one hash tag          |

`limits` are the gateways, the edges and the feeds.
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
"""Field of an entry that was skipped, as it is read and archived: the frame of the `SkipEntry`."""
SKIPPED_ENTRY_FIELD: Final = b"o"
"""Beside `SKIPPED_FIELD`: the fields of the entry in `in:{k}`, in msgpack."""

ENGINE_GROUP: Final = "engine"
"""The consumer group on `in:{k}`.

Its cursor moves with `pos:{k}`, in the same script, so that every tool for consumer groups sees what is
committed and what is pending. The worker itself reads from `pos`: reading as a consumer would be a write, and
cost a disk sync.
"""


class EventReader(StrEnum):
    """The readers of `ev:{k}`; also the fields of `passed:{k}`."""

    FEEDS = "feeds"
    PERSIST = "persist"


ARCHIVE_READER: Final = "archive"
"""The field of `passed:{k}` with the position up to which `in:{k}` is archived.

Without it there is no archive, and nothing waits for it.
"""
TRIMMED: Final = "trimmed"
"""The field of `passed:{k}` with the id before which the entries of `in:{k}` were removed.

Without it none were removed.
"""


class AfterLoss(StrEnum):
    """What `exchange restore` does with a key when it rebuilds Redis from the database."""

    REPLACED = "replaced"
    """Removed; the restore, or the process that writes the key, creates it again as far as needed."""
    KEPT = "kept"
    """Left unchanged: it is independent of the shards' state, or expires."""


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
    "dead": AfterLoss.KEPT,  # for the investigation of the error
    "halted": AfterLoss.REPLACED,
    "skip": AfterLoss.REPLACED,  # it names an entry that no longer exists
    "skips": AfterLoss.REPLACED,  # the archive has them beside their entries
    "passed": AfterLoss.REPLACED,
    "guard": AfterLoss.REPLACED,
    "schema": AfterLoss.KEPT,  # it describes the database
    "feeds": AfterLoss.REPLACED,
    "depth": AfterLoss.REPLACED,
    "depth_diffs": AfterLoss.REPLACED,
    "book_ticker": AfterLoss.REPLACED,
    "ticker": AfterLoss.REPLACED,
    "trades": AfterLoss.REPLACED,
    "candles": AfterLoss.REPLACED,
    "closed_candles": AfterLoss.REPLACED,
    "api_key": AfterLoss.REPLACED,  # it may be older than the database's state, and so may sessions
    "session": AfterLoss.REPLACED,
    "revocations": AfterLoss.KEPT,
    "attempts": AfterLoss.KEPT,
    "rate": AfterLoss.KEPT,
    "bans": AfterLoss.KEPT,
    "listen_key": AfterLoss.KEPT,
    "listen_key_of": AfterLoss.KEPT,
    "health": AfterLoss.KEPT,
    "settings": AfterLoss.KEPT,  # of the running processes
    "waited": AfterLoss.REPLACED,
    JOBS_NAMESPACE: AfterLoss.KEPT,  # an extra nudge does no harm
}
"""The first part of every key's name.

A test compares them with the table above. Channels store nothing, so they are not listed here.
"""


def after_loss(key: str) -> AfterLoss:
    """Return what a restore does with a key; keys of other programs are kept."""
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
    """`pos:{k}:checksum`. It has the same writers as the position, and is removed together with it."""
    return f"pos:{{{shard}}}:checksum"


def takeovers(shard: int) -> str:
    """`pos:{k}:takeovers`: "ID|COUNT", the position of the last takeover and how many there were."""
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
    """`schema:{0}`; the hash tag lets every process read it that may read shards' keys."""
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
    """`pub:second:{k}`, a channel. No market has this name: symbols are uppercase."""
    return f"pub:second:{{{shard}}}"


def account(account_id: int) -> str:
    """`account:ID`, a channel."""
    return f"account:{account_id}"


def repeat(shard: int) -> str:
    """`repeat:{k}`, a channel."""
    return f"repeat:{{{shard}}}"


def repeated(name: str, shard: int) -> str:
    """`repeated:NAME:{k}`, a channel. An edge hears each shard's on the server of that shard's feeds."""
    return f"repeated:{name}:{{{shard}}}"


def wanted(shard: int) -> str:
    """`wanted:{k}`, a channel."""
    return f"wanted:{{{shard}}}"


def replies(reply_to: str) -> str:
    """`reply:NAME`, a channel."""
    return f"reply:{reply_to}"


def api_key(key: str) -> str:
    """`api_key:2:KEY`; releases before scopes wrote `api_key:KEY`, which has no scopes."""
    return f"api_key:2:{key}"


def session(token_hash: str) -> str:
    """`session:HASH`, where HASH is the SHA-256 of the token in hex."""
    return f"session:{token_hash}"


def revocations() -> str:
    """`revocations:{0}`; with a hash tag, like `schema`."""
    return "revocations:{0}"


def attempts(of: str) -> str:
    """`attempts:OF`, where OF is an account, a network, or both."""
    return f"attempts:{of}"


def rate(shard: int, kind: str, owner: object, window: int) -> str:
    """`rate:{k}:KIND:OWNER:WINDOW`.

    An account's pot is on its shard's node, a network's always on the same one.
    """
    return f"rate:{{{shard}}}:{kind}:{owner}:{window}"


RATE_WORDS: Final = "rate:words"
"""A channel: the sender, then a line `KEY USED TAKEN VERSION WANTED` for each pot that has changed.

WANTED is the amount that somebody needed and did not get, else 0 (adapters/shares.py).
"""
ORDERS_10S: Final = "orders10s"
"""The kind of the pot for an account's unfilled orders in ten seconds."""
ORDERS_DAY: Final = "ordersday"
"""The kind of the pot for an account's unfilled orders in a day (UTC)."""
ORDER_WINDOWS_MS: Final[Mapping[str, int]] = {ORDERS_10S: 10_000, ORDERS_DAY: 86_400_000}


def bans() -> str:
    """`bans:{0}`; with a hash tag, like `schema`."""
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


def cluster_settings(shard: int) -> str:
    """`settings:{k}`; processes of no shard are in that of shard 0."""
    return f"settings:{{{shard}}}"


def health(process: str) -> str:
    """`health:NAME`; an engine's number is a hash tag, so that its heartbeat is on its shard's node."""
    return "health:" + _engine_number.sub(r"{\1}", process)


def instance_health(process: str, instance: str) -> str:
    """`health:NAME@HOST.PID`, on the node of `health:NAME`; `instance` is the part after the `@`."""
    key = health(process)
    return f"{key}@{instance}" if "{" in key else f"health:{{{key}}}@{instance}"


def process_of_health(key: str) -> str:
    """Return NAME, or NAME@HOST.PID, from a heartbeat's key."""
    return key.replace("{", "").replace("}", "").removeprefix("health:").removeprefix("health:")


def shard_of(key: str) -> int:
    """Return the shard in a key's hash tag."""
    return int(key[key.index("{") + 1 : key.index("}")])
