"""Accounts of users."""

from typing import NamedTuple, Protocol

from functions.users.activity import Activity, Origin
from protocol.units import AccountId, TimeMs


class SignInFacts(NamedTuple):
    """An account's data for a sign-in."""

    account_id: AccountId
    password_hash: str
    was_here: bool
    """The account was signed in to before."""
    knows_address: bool
    """From this address."""
    knows_agent: bool
    """With this program."""


class StepUpFacts(NamedTuple):
    """An account's data for a step-up: asking for the password again."""

    email: str
    password_hash: str
    knows_address: bool
    """The account was signed in to from this address before."""


class Contact(NamedTuple):
    """An account's address, and whether it is verified."""

    email: str
    is_verified: bool


class Profile(NamedTuple):
    """The data of an account that its owner sees."""

    email: str
    created_time: TimeMs
    is_verified: bool
    has_second_factor: bool


class Users(Protocol):
    """Accounts, by number or address. Changes are recorded as activity."""

    async def add(self, email: str, password_hash: str, origin: Origin) -> AccountId | None:
        """Create an account and return its number; None: the address already has one."""
        ...

    async def account_of(self, email: str) -> AccountId | None:
        """Return the account of an address."""
        ...

    async def sign_in_facts(self, email: str, origin: Origin) -> SignInFacts | None:
        """Return the data for a sign-in from this origin; None: there is no such account."""
        ...

    async def step_up_facts(self, account_id: AccountId, address: str) -> StepUpFacts | None:
        """Return the data for a step-up from `address`; None: there is no such account."""
        ...

    async def profile(self, account_id: AccountId) -> Profile | None:
        """Return the data that the account's owner sees; None: there is no such account."""
        ...

    async def contact(self, account_id: AccountId) -> Contact | None:
        """Return the account's address; None: there is no such account."""
        ...

    async def is_verified(self, account_id: AccountId) -> bool:
        """Return whether the account's address is verified."""
        ...

    async def verify(self, account_id: AccountId, origin: Origin) -> None:
        """Mark the account's address as verified, and record it as activity."""
        ...

    async def verify_silently(self, account_id: AccountId) -> None:
        """Mark the account's address as verified.

        The action that proved it, such as a password reset, has its own activity entry.
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
        """Replace the password, if the current one still has `known_hash` (None: any).

        Return whether it was replaced.
        """
        ...

    async def has_password(self, account_id: AccountId, password_hash: str) -> bool:
        """Return whether the account's password still has this hash."""
        ...
