"""Accounts of users."""

from typing import NamedTuple, Protocol

from functions.users.activity import Activity, Origin
from protocol.units import AccountId, TimeMs


class SignInFacts(NamedTuple):
    """What a sign-in needs to know of an account."""

    account_id: AccountId
    password_hash: str
    was_here: bool
    """It was signed in to before."""
    knows_address: bool
    """From this address."""
    knows_agent: bool
    """With this program."""


class StepUpFacts(NamedTuple):
    """What a step-up, asking for the password again, needs to know of an account."""

    email: str
    password_hash: str
    knows_address: bool
    """It was signed in to from this address before."""


class Contact(NamedTuple):
    """An account's address, and whether it was shown to be its owner's."""

    email: str
    is_verified: bool


class Profile(NamedTuple):
    """What an account's owner is shown of it."""

    email: str
    created_time: TimeMs
    is_verified: bool
    has_second_factor: bool


class Users(Protocol):
    """Accounts, by number or address. What changes one is noted as its activity."""

    async def add(self, email: str, password_hash: str, origin: Origin) -> AccountId | None:
        """Make an account and return its number; None: the address has one."""
        ...

    async def account_of(self, email: str) -> AccountId | None:
        """Return the account of an address."""
        ...

    async def sign_in_facts(self, email: str, origin: Origin) -> SignInFacts | None:
        """Return what a sign-in from there needs to know; None: there is no such account."""
        ...

    async def step_up_facts(self, account_id: AccountId, address: str) -> StepUpFacts | None:
        """Return what a step-up needs to know: who asks again from `address`; None: there is no such
        account.
        """
        ...

    async def profile(self, account_id: AccountId) -> Profile | None:
        """Return what the account's owner is shown; None: there is no such account."""
        ...

    async def contact(self, account_id: AccountId) -> Contact | None:
        """Return the account's address; None: there is no such account."""
        ...

    async def is_verified(self, account_id: AccountId) -> bool:
        """Return whether the account's address was shown to be its owner's."""
        ...

    async def verify(self, account_id: AccountId, origin: Origin) -> None:
        """Mark the account's address as its owner's, and note it as activity."""
        ...

    async def verify_silently(self, account_id: AccountId) -> None:
        """Mark the account's address as its owner's.

        What proved it, such as a password reset, has an activity entry of its own.
        """
        ...

    async def set_password(
        self,
        account_id: AccountId,
        password_hash: str,
        activity: Activity,
        origin: Origin,
        *,
        known_hash: str | None,
    ) -> bool:
        """Set another password, if the one of now still has the hash that is known (None: whichever it has).

        Return whether it did.
        """
        ...

    async def has_password(self, account_id: AccountId, password_hash: str) -> bool:
        """Return whether the account's password still has this hash."""
        ...
