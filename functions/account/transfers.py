"""Whether a transfer has happened already, where the shard may have forgotten it."""

from functions.api.ports import Ports
from protocol.units import AccountId, TimeMs


async def happened_long_ago(
    ports: Ports, account_id: AccountId, kind: str, transfer_id: str, asset: str, amount: int, now: TimeMs
) -> bool:
    """Return whether the database has the transfer, and the shard may have forgotten it.

    Also while `transfers` is being filled in.

    Ask before a transfer is enqueued whose id may be older than the shard's window. Half the window is left
    for clocks that differ, and for a database that is behind: a younger transfer is still the shard's to
    answer, which knows its first outcome.

    Raises:
        ApiError: the database is unavailable; nothing was enqueued.
    """
    before_ms = now - ports.settings.windows().transfer_ms // 2
    return await ports.ledger.has_transfer(account_id, kind, transfer_id, asset, amount, before_ms=before_ms)
