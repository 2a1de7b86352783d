"""Orders that an operator, or a delisting, cancels: some with each command, so that no command takes long."""

import msgspec

from protocol.orders import CloseReason
from protocol.units import AccountId, OrderId


class Drain(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Orders to cancel, some with each command: of an account, of a market, or of an account in a market.

    `market` empty: in all markets. `account_id` 0: of all accounts.
    """

    account_id: AccountId
    market: str
    reason: CloseReason
    after: OrderId = OrderId(0)
    """Orders of the account up to this number were seen to."""
    up_to: OrderId = OrderId(0)
    """Later orders of the account are not meant."""
