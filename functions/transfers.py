"""Whether a transfer has happened already, where the shard may have forgotten it."""

from functions.ports import Ports
from protocol.units import AccountId, TimeMs

_STORED = """
SELECT 1 FROM transfers WHERE account_id = %(account_id)s AND kind = %(kind)s AND transfer_id = %(transfer_id)s
AND asset = %(asset)s AND amount = %(amount)s AND time < to_timestamp(%(before_ms)s / 1000.0)
"""


async def happened_long_ago(
    ports: Ports, account_id: AccountId, kind: str, transfer_id: str, asset: str, amount: int, now: TimeMs
) -> bool:
    """Return whether the database has the transfer, and the shard may have forgotten it.

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
