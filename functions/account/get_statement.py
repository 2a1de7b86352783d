"""GET /api/v1/statement: what moved an account's money, entry by entry, with what it had after each."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec

from functions.api.errors import illegal_characters, invalid_parameter, unavailable
from functions.api.function import (
    ASSET,
    END_TIME,
    START_TIME,
    Answered,
    Function,
    Group,
    Parameter,
    Security,
    Written,
    limit_parameter,
)
from functions.api.market_choice import asset_wanted
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, Change, Time
from protocol.market import MarketMap
from protocol.units import TimeMs

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_FOREVER_MS: Final = TimeMs(10**15 - 1)
_POSITION: Final = r"^[0-9]{1,15}\.[0-9]{1,3}\.[0-9]{1,15}-[0-9]{1,20}\.[0-9]{1,9}\.[0-9]{1,4}$"
_position = re.compile(_POSITION.strip("^$"), re.ASCII)
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
"""What spreadsheets take for a formula: https://owasp.org/www-community/attacks/CSV_Injection"""
_CSV: Final = "text/csv"
_COLUMNS: Final = ("position", "time", "asset", "kind", "amount", "balance", "reference")
_OPENING, _CLOSING = "opening", "closing"


class Position(NamedTuple):
    """A place in the ledger: entries are ordered by it, and each has one of its own.

    An account's entries come from its shard, whose times never go back, in the order in which they are stored. So no entry comes
    to be stored before one that has been read.
    """

    time: TimeMs
    shard: int = 0
    milliseconds: int = 0
    number: int = 0
    """With `milliseconds`: the id in the shard's event stream."""
    event: int = 0
    entry: int = 0

    @classmethod
    def after(cls, text: str) -> Self:
        """Return the first place after one that `str` has written.

        Raises:
            ApiError: -1100, it is none.
        """
        if _position.fullmatch(text) is None:
            raise illegal_characters("after", _POSITION)
        time, shard, milliseconds, number, event, entry = (int(digits) for digits in re.split("[.-]", text))
        return cls(TimeMs(time), shard, milliseconds, number, event, entry + 1)

    def __str__(self) -> str:
        """Return the text that `after` reads."""
        return f"{self.time}.{self.shard}.{self.milliseconds}-{self.number}.{self.event}.{self.entry}"


class StatedBalanceShape(msgspec.Struct, gc=False):
    """What there was of an asset, free or locked, before the period and after it."""

    asset: str
    opening: Amount
    closing: Amount


class EntryShape(msgspec.Struct, gc=False):
    """One entry: what the account gained (or gave: negative) of an asset, and what it had then, free or locked."""

    position: str
    time: Time
    asset: str
    kind: str
    """deposit, withdrawal, trade (less the fee), or loss: an entry before it was taken back by a restore."""
    amount: Change
    balance: Amount
    reference: str
    """The transfer's id, or market:trade."""


class StatementShape(msgspec.Struct, rename="camel"):
    """An account's ledger in a period, or a part of it."""

    start_time: int | None
    end_time: int | None
    """As asked for; null: no bound."""
    kept_since: int
    """Entries from this time on are kept: 0, since retention does not touch the ledger. What references name may be gone."""
    balances: list[StatedBalanceShape]
    """Of each asset that the account ever had up to the end of the period: opening + all of the period's amounts = closing."""
    entries: list[EntryShape]
    """Oldest first."""
    has_more: bool
    """Whether more of the period follows: ask again with `after`, the last entry's position."""


class StoredEntry(NamedTuple):
    """An entry of the ledger in its asset's units; `balance` is null where it was not stored."""

    position: Position
    asset: str
    kind: str
    amount: int
    balance: int | None
    reference: str


class Stored(NamedTuple):
    """What the database has for one answer, as of one moment. Amounts are in each asset's units."""

    opening: dict[str, int]
    before: dict[str, int]
    """Before the first of `entries`."""
    closing: dict[str, int]
    entries: Sequence[StoredEntry]


# Positions are compared as rows; the time alone, which is what is indexed, is compared besides.
_KEY: Final = "split_part(stream_id, '-', 1)::bigint, split_part(stream_id, '-', 2)::numeric, event, entry"
_FIRST_TIME: Final = "to_timestamp(%(time)s::bigint / 1000.0)"
_FIRST: Final = """%(shard)s::integer, %(milliseconds)s::bigint, %(number)s::numeric, %(event)s::integer,
    %(entry)s::integer"""
_AT: Final = "to_timestamp(place.time_ms / 1000.0)"
_PLACE: Final = f"({_AT}, place.shard, place.milliseconds, place.number, place.event, place.entry)"
# What the account has at a place is what it had after the newest entry before that says so, and all amounts since. Those are few: entries
# that a restore took back, and whatever was stored by a release before 0011. One statement, so that all of it is of one moment.
# Entries are bounded by the parameters themselves: the planner sees how many there are, and goes by the index instead of sorting them all.
_STATEMENT: Final = f"""
WITH places (name, time_ms, shard, milliseconds, number, event, entry) AS (VALUES
    ('opening', %(start)s::bigint, 0, 0::bigint, 0::numeric, 0, 0),
    ('before', %(time)s::bigint, {_FIRST}),
    ('closing', %(end)s::bigint + 1, 0, 0::bigint, 0::numeric, 0, 0)
), wanted AS (
    SELECT unnest(%(assets)s::text[]) AS asset
), balances AS (
    SELECT place.name, wanted.asset, coalesce(known.balance, 0) + coalesce(since.amount, 0) AS balance
    FROM places AS place CROSS JOIN wanted
    LEFT JOIN LATERAL (
        SELECT balance, time, shard, {_KEY.replace("::bigint", "::bigint AS milliseconds").replace("::numeric", "::numeric AS number")}
        FROM ledger_entries WHERE account_id = %(account)s::bigint AND asset = wanted.asset AND balance IS NOT NULL
            AND time <= {_AT} AND (time, shard, {_KEY}) < {_PLACE}
        ORDER BY time DESC, shard DESC, milliseconds DESC, number DESC, event DESC, entry DESC LIMIT 1
    ) AS known ON true
    CROSS JOIN LATERAL (
        SELECT sum(amount) AS amount, count(*) AS entries
        FROM ledger_entries WHERE account_id = %(account)s::bigint AND asset = wanted.asset
            AND time >= coalesce(known.time, '-infinity') AND time <= {_AT} AND (time, shard, {_KEY}) < {_PLACE}
            AND (time, shard, {_KEY}) > (coalesce(known.time, '-infinity'), coalesce(known.shard, 0),
                coalesce(known.milliseconds, 0), coalesce(known.number, 0), coalesce(known.event, 0), coalesce(known.entry, -1))
    ) AS since
    WHERE known.time IS NOT NULL OR since.entries > 0
)
SELECT name, asset, NULL, NULL, balance::bigint, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM balances
UNION ALL (
    SELECT 'entry', found.* FROM wanted CROSS JOIN LATERAL (
        SELECT asset, kind, amount, balance, reference, (extract(epoch from time) * 1000)::bigint, shard, {_KEY}
        FROM ledger_entries WHERE account_id = %(account)s::bigint AND asset = wanted.asset
            AND time >= {_FIRST_TIME} AND time <= to_timestamp(%(end)s::bigint / 1000.0)
            AND (time, shard, {_KEY}) >= ({_FIRST_TIME}, {_FIRST})
        ORDER BY time, shard, {_KEY} LIMIT %(limit)s
    ) AS found (asset, kind, amount, balance, reference, time_ms, shard, milliseconds, number, event, entry)
    ORDER BY found.time_ms, found.shard, found.milliseconds, found.number, found.event, found.entry LIMIT %(limit)s
)
"""


async def get_statement(ports: Ports, call: Call) -> StatementShape | Answered[Written]:
    """Return what moved the account's money, oldest first, as JSON or CSV, with the balances before and after the period.

    The ledger is kept for ever. A file of CSV has a row of kind `opening` for each asset before the first entry of the period, and one
    of kind `closing` after the last; where those are missing, more follows.
    """
    parameters, known = call.parameters, ports.known_markets
    asset = asset_wanted(ports, parameters, "asset")
    if asset is None and known.unknown_shards:
        raise unavailable()  # the account may have an asset of theirs
    start, end = parameters.time_range()
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    writes_csv = parameters.choice("format", {"json": False, "csv": True}, lambda: invalid_parameter("format"))
    after = parameters.optional("after")
    opening = first = Position(start or TimeMs(0))
    if after is not None:
        first = max(opening, Position.after(after))
    await ports.database.catch_up(ports.markets.shard_of_account(call.account_id))
    rows = await ports.database.fetch(
        _STATEMENT,
        {
            **first._asdict(),
            "account": call.account_id,
            "assets": list(known.assets) if asset is None else [asset],
            "start": opening.time,
            "end": _FOREVER_MS if end is None else end,
            "limit": limit + 1,
        },
    )
    stored = _read(rows)
    has_more = len(stored.entries) > limit
    entries = entry_shapes(stored.before, stored.entries[:limit], known, call.time_scale)
    balances = [
        StatedBalanceShape(
            each, known.format_amount(stored.opening.get(each, 0), each), known.format_amount(closing, each)
        )
        for each, closing in sorted(stored.closing.items())
    ]
    if writes_csv:
        text = csv_of(entries, balances, is_first=first == opening, is_last=not has_more)
        name = f"statement-{call.account_id}{f'-{after}' if after else ''}.csv"
        disposition = (b"content-disposition", f'attachment; filename="{name}"'.encode())
        return Answered(Written(text.encode(), b"text/csv; charset=utf-8"), (disposition,))
    scale = call.time_scale
    return StatementShape(
        start_time=None if start is None else start * scale,
        end_time=None if end is None else end * scale,
        kept_since=0,
        balances=balances,
        entries=entries,
        has_more=has_more,
    )


def _read(rows: Iterable[tuple[Any, ...]]) -> Stored:
    """Return what the rows of `_STATEMENT` say."""
    balances: defaultdict[str, dict[str, int]] = defaultdict(dict)
    entries: list[StoredEntry] = []
    for name, asset, kind, amount, balance, reference, *position in rows:
        if name == "entry":
            place = Position(*(int(each) for each in position))  # type: ignore[arg-type]
            entries.append(StoredEntry(place, asset, kind, amount, balance, reference))
        else:
            balances[name][asset] = balance
    entries.sort()
    return Stored(balances["opening"], balances["before"], balances["closing"], entries)


def entry_shapes(
    before: dict[str, int], entries: Iterable[StoredEntry], known: MarketMap, time_scale: int
) -> list[EntryShape]:
    """Return entries with what the account had after each: as stored, else what it had `before` and the amounts since."""
    running = dict(before)
    shapes = []
    for position, asset, kind, amount, balance, reference in entries:
        running[asset] = running.get(asset, 0) + amount if balance is None else balance
        shapes.append(
            EntryShape(
                position=str(position),
                time=position.time * time_scale,
                asset=asset,
                kind=kind,
                amount=known.format_amount(amount, asset),
                balance=known.format_amount(running[asset], asset),
                reference=reference,
            )
        )
    return shapes


def csv_of(
    entries: Iterable[EntryShape], balances: Sequence[StatedBalanceShape], *, is_first: bool, is_last: bool
) -> str:
    """Return a part of a statement as RFC 4180 has it; the first and the last part say what there was before and after all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    if is_first:
        writer.writerows(("", "", _harmless(each.asset), _OPENING, "", each.opening, "") for each in balances)
    writer.writerows(
        (
            *(each.position, each.time, _harmless(each.asset), _harmless(each.kind)),
            *(each.amount, each.balance, _harmless(each.reference)),
        )
        for each in entries
    )
    if is_last:
        writer.writerows(("", "", _harmless(each.asset), _CLOSING, "", each.closing, "") for each in balances)
    return text.getvalue()


def _harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _weight(parameters: Parameters) -> int:
    return 10 if "asset" in parameters else 20


FUNCTION = Function(
    "GET",
    "/api/v1/statement",
    Group.ACCOUNT,
    "Statement of account",
    get_statement,
    security=Security.OWNER,
    weight=_weight,
    parameters=(
        START_TIME,
        END_TIME,
        ASSET._replace(description="Asset, for example BTC; all by default."),
        Parameter("after", "Only what came after this entry: its position.", pattern=_POSITION),
        Parameter("format", "json, which is the default, or csv.", choices=("json", "csv")),
        limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX),
    ),
    also_writes=(_CSV,),
)
