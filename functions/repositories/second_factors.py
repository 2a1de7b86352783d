"""Second factors of accounts: devices and recovery codes."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from functions.users.activity import Origin
from protocol.units import AccountId


class StoredFactor(NamedTuple):
    """An account's second factor; `sealed` is the stored secret; empty: there is none."""

    email: str
    sealed: bytes
    is_on: bool


class SecondFactors(Protocol):
    """TOTP devices and recovery codes. Changes are recorded as the account's activity."""

    async def find(self, account_id: AccountId) -> StoredFactor | None:
        """Return an account's second factor; None: there is no such account."""
        ...

    async def begin(self, account_id: AccountId, sealed: bytes) -> str | None:
        """Store the secret of an unconfirmed device.

        Return the account's address; None: it already has a second factor.
        """
        ...

    async def confirm(
        self, account_id: AccountId, sealed: bytes, code_hashes: Sequence[str], origin: Origin
    ) -> bool:
        """Activate the device with this secret, and give the account new recovery codes.

        Return whether the device was still the unconfirmed one.
        """
        ...

    async def remove(self, account_id: AccountId, origin: Origin) -> bool:
        """Remove the second factor; return whether there was one."""
        ...

    async def use_step(self, account_id: AccountId, step: int) -> bool:
        """Use the code of a step; return whether no code of this step or a later one was used before."""
        ...

    async def use_recovery_code(self, account_id: AccountId, code_hash: str) -> bool:
        """Use a recovery code; return whether the account has it and had not used it."""
        ...
