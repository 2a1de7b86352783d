"""What moved accounts' money."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from functions.account.ledger_position import Position
from protocol.units import AccountId, TimeMs


class LedgerEntry(NamedTuple):
    """An entry of the ledger in its asset's units; `balance` is None where it was not stored."""

    position: Position
    asset: str
    kind: str
    amount: int
    balance: int | None
    reference: str


class LedgerPage(NamedTuple):
    """Entries, and what the account had of each asset, as of one moment.

    Amounts are in each asset's units.
    """

    opening: dict[str, int]
    before: dict[str, int]
    """Before the first of `entries`."""
    closing: dict[str, int]
    entries: Sequence[LedgerEntry]


class Transfer(NamedTuple):
    """A deposit or withdrawal that is done."""

    transfer_id: str
    asset: str
    amount: int
    time: TimeMs


class Ledger(Protocol):
    """Every account's entries and transfers."""

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
        """Return the first `limit` entries from `first` on, of the period from `start` to `end`, and its
        balances.
        """
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
        """Return transfers of a kind (deposit, withdrawal), newest first, without the first `offset`; None:
        no condition.
        """
        ...

    async def has_transfer(
        self, account_id: AccountId, kind: str, transfer_id: str, asset: str, amount: int, *, before_ms: int
    ) -> bool:
        """Return whether there is such a transfer, made before a time.

        Also while `transfers` is being filled in.
        """
        ...
