"""Whether a transfer has happened already, where the shard may have forgotten it."""

from functions.api.ports import Ports
from protocol.units import AccountId, TimeMs

# Until the backfill is done, what it has not reached is looked up in the ledger: slowly, but rightly. One statement, since both parts must
# see the same position. What a restore could not bring back has not happened (history/restore.py).
# The inner query depends on the backfill's row (LATERAL), so that nothing is read of the ledger when there is none.
_STORED = """
SELECT 1 FROM transfers WHERE account_id = %(account_id)s AND kind = %(kind)s AND transfer_id = %(transfer_id)s
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


async def happened_long_ago(
    ports: Ports, account_id: AccountId, kind: str, transfer_id: str, asset: str, amount: int, now: TimeMs
) -> bool:
    """Return whether the database has the transfer, and the shard may have forgotten it; also while `transfers` is being filled in.

    Ask before a transfer is enqueued whose id may be older than the shard's window. Half the window is left for clocks that differ, and
    for a database that is behind: a younger transfer is still the shard's to answer, which knows its first outcome.

    Raises:
        ApiError: the database is unavailable; nothing was enqueued.
    """
    before_ms = now - ports.settings.windows().transfer_ms // 2
    rows = await ports.database.fetch(
        _STORED,
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
