"""Second factors of accounts: devices, and recovery codes."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from functions.users.activity import Origin
from protocol.units import AccountId


class StoredFactor(NamedTuple):
    """An account's second factor; `sealed` is the secret as it is kept, empty: there is none."""

    email: str
    sealed: bytes
    is_on: bool


class SecondFactors(Protocol):
    """Devices by time (TOTP) and recovery codes. What changes them is noted as the account's activity."""

    async def find(self, account_id: AccountId) -> StoredFactor | None:
        """Return an account's second factor; None: there is no such account."""
        ...

    async def begin(self, account_id: AccountId, sealed: bytes) -> str | None:
        """Keep the secret of a device that is to be confirmed; return the account's address, None: it has a
        second factor.
        """
        ...

    async def confirm(
        self, account_id: AccountId, sealed: bytes, code_hashes: Sequence[str], origin: Origin
    ) -> bool:
        """Turn the device on that has this secret, and give the account new recovery codes.

        Return whether it was still that one.
        """
        ...

    async def remove(self, account_id: AccountId, origin: Origin) -> bool:
        """Remove the second factor; return whether there was one."""
        ...

    async def use_step(self, account_id: AccountId, step: int) -> bool:
        """Return whether no code of this step or a later one was used; from now on one was."""
        ...

    async def use_recovery_code(self, account_id: AccountId, code_hash: str) -> bool:
        """Return whether the account has such a recovery code that was not used; from now on it was."""
        ...
