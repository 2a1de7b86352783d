"""What was done with an account: written in the statement that does it, and never changed."""

from enum import StrEnum
from typing import Final, LiteralString

from functions.api.ports import Call

AGENT_MAX: Final = 200
"""Characters of a User-Agent that are kept."""


class Activity(StrEnum):
    """Kinds of what was done."""

    SIGNED_UP = "signedUp"
    SIGNED_IN = "signedIn"
    SIGN_IN_REFUSED = "signInRefused"
    SIGNED_OUT = "signedOut"
    KEY_MADE = "apiKeyMade"
    KEY_REVOKED = "apiKeyRevoked"
    VERIFIED = "verified"
    CHANGED = "passwordChanged"
    RESET = "passwordReset"
    FACTOR_ADDED = "secondFactorAdded"
    FACTOR_REMOVED = "secondFactorRemoved"


NOTE: Final[LiteralString] = """
    INSERT INTO activity (account_id, kind, address, agent, detail)
    SELECT changed.account_id, %(activity)s, %(address)s, %(agent)s, changed.detail FROM changed
"""
"""For a statement whose `changed` has an `account_id` and a `detail`."""


def note_parameters(activity: Activity, call: Call) -> dict[str, object]:
    """Return the parameters of `NOTE`."""
    return {"activity": activity, "address": call.address, "agent": call.agent}


def noting(changing: LiteralString, then: LiteralString) -> LiteralString:
    """Return the statement that does `changing`, notes it, and returns what `then` selects from `changed`."""
    return "WITH changed AS (" + changing + "), noted AS (" + NOTE + ") " + then


_BY_EMAIL: Final[LiteralString] = """
    INSERT INTO activity (account_id, kind, address, agent, detail)
    SELECT account_id, %(activity)s, %(address)s, %(agent)s, '' FROM users WHERE email = %(email)s
"""


def noted_by_email(activity: Activity, call: Call, email: str) -> tuple[LiteralString, dict[str, object]]:
    """Return statement and parameters that note what was tried with an address; the same work where there is no such account."""
    return _BY_EMAIL, {**note_parameters(activity, call), "email": email}
