"""The ledger: movements of the accounts' money."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from functions.account.ledger_position import Position
from protocol.units import AccountId, TimeMs


class LedgerEntry(NamedTuple):
    """An entry of the ledger in its asset's units; `balance` is None if it was not stored."""

    position: Position
    asset: str
    kind: str
    amount: int
    balance: int | None
    reference: str


class LedgerPage(NamedTuple):
    """Entries, and the balance of each asset, at one moment.

    Amounts are in each asset's units.
    """

    opening: dict[str, int]
    before: dict[str, int]
    """The balances before the first of `entries`."""
    closing: dict[str, int]
    entries: Sequence[LedgerEntry]


class Transfer(NamedTuple):
    """A completed deposit or withdrawal."""

    transfer_id: str
    asset: str
    amount: int
    time: TimeMs


class Ledger(Protocol):
    """The entries and transfers of every account."""

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
        ...

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
        ...

    async def has_transfer(
        self, account_id: AccountId, kind: str, transfer_id: str, asset: str, amount: int, *, before_ms: int
    ) -> bool:
        """Return whether this transfer exists and was made before a time.

        This also works while `transfers` is being backfilled.
        """
        ...
