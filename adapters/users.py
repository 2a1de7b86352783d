"""The table of users."""

from typing import Final, LiteralString

from adapters.activity import note_parameters, noting
from adapters.database import Database
from functions.repositories.users import Contact, Profile, SignInFacts, StepUpFacts
from functions.users.activity import Activity, Origin
from protocol.units import AccountId

_ADD: Final[LiteralString] = noting(
    """
    INSERT INTO users (email, password_hash) VALUES (%(email)s, %(hash)s) ON CONFLICT (email) DO NOTHING
    RETURNING account_id, '' AS detail
    """,
    "SELECT account_id FROM changed",
)
_OF_EMAIL: Final = "SELECT account_id FROM users WHERE email = %(email)s"
_SIGN_IN_FACTS: Final = """
    SELECT account_id, password_hash, EXISTS (SELECT FROM sessions
    WHERE sessions.account_id = users.account_id),
        EXISTS (SELECT FROM sessions WHERE sessions.account_id = users.account_id AND address = %(address)s),
        EXISTS (SELECT FROM sessions WHERE sessions.account_id = users.account_id AND agent = %(agent)s)
    FROM users WHERE email = %(email)s
"""
_STEP_UP_FACTS: Final = """
    SELECT email, password_hash,
        EXISTS (SELECT FROM sessions WHERE sessions.account_id = users.account_id AND address = %(address)s)
    FROM users WHERE account_id = %(account)s
"""
_PROFILE: Final = """
    SELECT email, (extract(epoch from created_at) * 1000)::bigint, verified_at IS NOT NULL,
    totp_since IS NOT NULL
    FROM users WHERE account_id = %(account)s
"""
_CONTACT: Final = "SELECT email, verified_at IS NOT NULL FROM users WHERE account_id = %(account)s"
_VERIFY: Final[LiteralString] = noting(
    """
    UPDATE users SET verified_at = coalesce(verified_at, now()) WHERE account_id = %(account)s
    RETURNING account_id, '' AS detail
    """,
    "SELECT account_id FROM changed",
)
_IS_VERIFIED: Final = "SELECT verified_at IS NOT NULL FROM users WHERE account_id = %(account)s"
_VERIFY_SILENTLY: Final = (
    "UPDATE users SET verified_at = coalesce(verified_at, now()) WHERE account_id = %(account)s"
)
_SET_PASSWORD: Final[LiteralString] = noting(
    """
    UPDATE users SET password_hash = %(hash)s
    WHERE account_id = %(account)s AND (%(known)s::text IS NULL OR password_hash = %(known)s)
    RETURNING account_id, '' AS detail
    """,
    "SELECT account_id FROM changed",
)
_HAS_HASH: Final = "SELECT FROM users WHERE account_id = %(account)s AND password_hash = %(known)s"


class PostgresUsers:
    """Implements `functions.repositories.users.Users`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, email: str, password_hash: str, origin: Origin) -> AccountId | None:
        """Create an account and return its number; None: the address already has one."""
        note = note_parameters(Activity.SIGNED_UP, origin)
        rows = await self._database.fetch(_ADD, {**note, "email": email, "hash": password_hash})
        return AccountId(rows[0][0]) if rows else None

    async def account_of(self, email: str) -> AccountId | None:
        """Return the account of an address."""
        rows = await self._database.fetch(_OF_EMAIL, {"email": email})
        return AccountId(rows[0][0]) if rows else None

    async def sign_in_facts(self, email: str, origin: Origin) -> SignInFacts | None:
        """Return the data for a sign-in from this origin; None: there is no such account."""
        parameters = {"email": email, "address": origin.address, "agent": origin.agent}
        rows = await self._database.fetch(_SIGN_IN_FACTS, parameters)
        return SignInFacts(*rows[0]) if rows else None

    async def step_up_facts(self, account_id: AccountId, address: str) -> StepUpFacts | None:
        """Return the data for a step-up from `address`; None: there is no such account."""
        rows = await self._database.fetch(_STEP_UP_FACTS, {"account": account_id, "address": address})
        return StepUpFacts(*rows[0]) if rows else None

    async def profile(self, account_id: AccountId) -> Profile | None:
        """Return the data that the account's owner sees; None: there is no such account."""
        rows = await self._database.fetch(_PROFILE, {"account": account_id})
        return Profile(*rows[0]) if rows else None

    async def contact(self, account_id: AccountId) -> Contact | None:
        """Return the account's address; None: there is no such account."""
        rows = await self._database.fetch(_CONTACT, {"account": account_id})
        return Contact(*rows[0]) if rows else None

    async def is_verified(self, account_id: AccountId) -> bool:
        """Return whether the account's address is verified."""
        rows = await self._database.fetch(_IS_VERIFIED, {"account": account_id})
        return bool(rows and rows[0][0])

    async def verify(self, account_id: AccountId, origin: Origin) -> None:
        """Mark the account's address as verified, and record it as activity."""
        await self._database.fetch(
            _VERIFY, {**note_parameters(Activity.VERIFIED, origin), "account": account_id}
        )

    async def verify_silently(self, account_id: AccountId) -> None:
        """Mark the account's address as verified.

        The action that proved it, such as a password reset, has its own activity entry.
        """
        await self._database.fetch(_VERIFY_SILENTLY, {"account": account_id})

    async def set_password(
        self,
        account_id: AccountId,
        password_hash: str,
        activity: Activity,
        origin: Origin,
        *,
        known_hash: str | None,
    ) -> bool:
        """Replace the password, if the current one still has `known_hash`; return whether it was replaced."""
        note = note_parameters(activity, origin)
        parameters = {**note, "hash": password_hash, "account": account_id, "known": known_hash}
        return bool(await self._database.fetch(_SET_PASSWORD, parameters))

    async def has_password(self, account_id: AccountId, password_hash: str) -> bool:
        """Return whether the account's password still has this hash."""
        return bool(await self._database.fetch(_HAS_HASH, {"account": account_id, "known": password_hash}))
