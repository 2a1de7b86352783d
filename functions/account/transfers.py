"""Whether a transfer has already happened, if the shard may have forgotten it."""

from functions.api.ports import Ports
from protocol.units import AccountId, TimeMs


async def happened_long_ago(
    ports: Ports, account_id: AccountId, kind: str, transfer_id: str, asset: str, amount: int, now: TimeMs
) -> bool:
    """Return whether the database has the transfer, and the shard may have forgotten it.

    This also works while `transfers` is being backfilled.

    Call it before enqueuing a transfer whose id may be older than the shard's window. Half the window is
    reserved for clock differences and for the database's lag: the shard, which knows the first outcome, still
    answers for younger transfers.

    Raises:
        ApiError: the database is unavailable; nothing was enqueued.
    """
    before_ms = now - ports.settings.windows().transfer_ms // 2
    return await ports.ledger.has_transfer(account_id, kind, transfer_id, asset, amount, before_ms=before_ms)
