"""The ledger, and the table of transfers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from adapters.database import Database
from functions.account.ledger_position import Position
from functions.repositories.ledger import LedgerEntry, LedgerPage, Transfer
from protocol.units import AccountId, TimeMs

_FOREVER_MS: Final = TimeMs(10**15 - 1)
# Positions are compared as rows; the time, which is indexed, is compared in addition.
_KEY: Final = "split_part(stream_id, '-', 1)::bigint, split_part(stream_id, '-', 2)::numeric, event, entry"
_FIRST_TIME: Final = "to_timestamp(%(time)s::bigint / 1000.0)"
_FIRST: Final = """%(shard)s::integer, %(milliseconds)s::bigint, %(number)s::numeric, %(event)s::integer,
    %(entry)s::integer"""
_AT: Final = "to_timestamp(place.time_ms / 1000.0)"
_PLACE: Final = f"({_AT}, place.shard, place.milliseconds, place.number, place.event, place.entry)"
# The balance at a position is the balance of the newest earlier entry that stores one, plus all amounts
# since. Entries without a balance are few: those that a restore reversed, and those of releases before 0011.
# One statement, so that all of it is of one moment. Entries are bounded by the parameters themselves: the
# planner then knows how many there are, and uses the index instead of sorting all.
_PAGE: Final = f"""
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
        SELECT balance, time, shard,
        {_KEY.replace("::bigint", "::bigint AS milliseconds").replace("::numeric", "::numeric AS number")}
        FROM ledger_entries WHERE account_id = %(account)s::bigint AND asset = wanted.asset
        AND balance IS NOT NULL
            AND time <= {_AT} AND (time, shard, {_KEY}) < {_PLACE}
        ORDER BY time DESC, shard DESC, milliseconds DESC, number DESC, event DESC, entry DESC LIMIT 1
    ) AS known ON true
    CROSS JOIN LATERAL (
        SELECT sum(amount) AS amount, count(*) AS entries
        FROM ledger_entries WHERE account_id = %(account)s::bigint AND asset = wanted.asset
            AND time >= coalesce(known.time, '-infinity') AND time <= {_AT} AND (time, shard,
            {_KEY}) < {_PLACE}
            AND (time, shard, {_KEY}) > (coalesce(known.time, '-infinity'), coalesce(known.shard, 0),
                coalesce(known.milliseconds, 0), coalesce(known.number, 0), coalesce(known.event, 0),
                coalesce(known.entry, -1))
    ) AS since
    WHERE known.time IS NOT NULL OR since.entries > 0
)
SELECT name, asset, NULL, NULL, balance::bigint, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM balances
UNION ALL (
    SELECT 'entry', found.* FROM wanted CROSS JOIN LATERAL (
        SELECT asset, kind, amount, balance, reference, (extract(epoch from time) * 1000)::bigint, shard,
        {_KEY}
        FROM ledger_entries WHERE account_id = %(account)s::bigint AND asset = wanted.asset
            AND time >= {_FIRST_TIME} AND time <= to_timestamp(%(end)s::bigint / 1000.0)
            AND (time, shard, {_KEY}) >= ({_FIRST_TIME}, {_FIRST})
        ORDER BY time, shard, {_KEY} LIMIT %(limit)s
    ) AS found (asset, kind, amount, balance, reference, time_ms, shard, milliseconds, number, event, entry)
    ORDER BY found.time_ms, found.shard, found.milliseconds, found.number, found.event, found.entry
    LIMIT %(limit)s
)
"""
_TRANSFERS: Final = """
    SELECT transfer_id, asset, amount, (extract(epoch from time) * 1000)::bigint FROM transfers
    WHERE account_id = %(account)s AND kind = %(kind)s AND (%(asset)s::text IS NULL OR asset = %(asset)s)
        AND (%(transfer)s::text IS NULL OR transfer_id = %(transfer)s)
        AND (%(start)s::bigint IS NULL OR time >= to_timestamp(%(start)s / 1000.0))
        AND (%(end)s::bigint IS NULL OR time <= to_timestamp(%(end)s / 1000.0))
    ORDER BY time DESC, transfer_id LIMIT %(limit)s OFFSET %(offset)s
"""
# Until the backfill is done, transfers that it has not reached are looked up in the ledger: slow, but
# correct. One statement, since both parts must see the same position. Transfers that a restore could not
# recover have not happened (history/restore.py). The inner query depends on the backfill's row (LATERAL), so
# that the ledger is not read if there is none.
_HAS_TRANSFER: Final = """
SELECT 1 FROM transfers WHERE account_id = %(account_id)s AND kind = %(kind)s
    AND transfer_id = %(transfer_id)s
AND asset = %(asset)s AND amount = %(amount)s AND time < to_timestamp(%(before_ms)s / 1000.0)
UNION ALL
SELECT 1 FROM schema_backfills AS backfill CROSS JOIN LATERAL (
    SELECT 1 FROM ledger_entries AS moved WHERE moved.time >= coalesce(backfill.position, '-infinity')
    AND moved.time < to_timestamp(%(before_ms)s / 1000.0)
    AND moved.account_id = %(account_id)s AND moved.kind = %(kind)s AND moved.reference = %(transfer_id)s
    AND moved.asset = %(asset)s AND abs(moved.amount) = %(amount)s
    AND NOT EXISTS (
        SELECT 1 FROM ledger_entries AS lost WHERE lost.kind = 'loss' AND lost.time = moved.time
        AND (lost.shard, lost.stream_id, lost.event) = (moved.shard, moved.stream_id, moved.event)
    )
    LIMIT 1
) AS found
WHERE backfill.name = 'transfers' AND backfill.done_time IS NULL
"""


class PostgresLedger:
    """Implements `functions.repositories.ledger.Ledger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        account_id: AccountId,
        assets: Sequence[str],
        *,
        start: TimeMs,
        first: Position,
        end: TimeMs | None,
        limit: int,
    ) -> LedgerPage:
        """Return the first `limit` entries from `first` on, of the period `start` to `end`, with balances."""
        rows = await self._database.fetch(
            _PAGE,
            {
                **first._asdict(),
                "account": account_id,
                "assets": list(assets),
                "start": start,
                "end": _FOREVER_MS if end is None else end,
                "limit": limit,
            },
        )
        return _page(rows)

    async def transfers(
        self,
        account_id: AccountId,
        kind: str,
        *,
        asset: str | None,
        transfer_id: str | None,
        start: TimeMs | None,
        end: TimeMs | None,
        limit: int,
        offset: int,
    ) -> list[Transfer]:
        """Return transfers of a kind (deposit, withdrawal), newest first, without the first `offset`.

        A condition that is None does not apply.
        """
        rows = await self._database.fetch(
            _TRANSFERS,
            {
                "account": account_id,
                "kind": kind,
                "asset": asset,
                "transfer": transfer_id,
                "start": start,
                "end": end,
                "limit": limit,
                "offset": offset,
            },
        )
        return [Transfer(*row) for row in rows]

    async def has_transfer(
        self, account_id: AccountId, kind: str, transfer_id: str, asset: str, amount: int, *, before_ms: int
    ) -> bool:
        """Return whether this transfer exists and was made before a time.

        This also works while `transfers` is being backfilled.
        """
        rows = await self._database.fetch(
            _HAS_TRANSFER,
            {
                "account_id": account_id,
                "kind": kind,
                "transfer_id": transfer_id,
                "asset": asset,
                "amount": amount,
                "before_ms": before_ms,
            },
        )
        return bool(rows)


def _page(rows: list[tuple[Any, ...]]) -> LedgerPage:
    """Return the page in the rows of `_PAGE`."""
    balances: defaultdict[str, dict[str, int]] = defaultdict(dict)
    entries: list[LedgerEntry] = []
    for name, asset, kind, amount, balance, reference, *position in rows:
        if name == "entry":
            place = Position(*(int(part) for part in position))  # type: ignore[arg-type]
            entries.append(LedgerEntry(place, asset, kind, amount, balance, reference))
        else:
            balances[name][asset] = balance
    entries.sort()
    return LedgerPage(balances["opening"], balances["before"], balances["closing"], entries)
