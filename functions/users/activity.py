"""Kinds of what is done with an account, and from where.

`functions.repositories.activity` keeps it, and never changes it.
"""

from enum import StrEnum
from typing import Final, NamedTuple

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


class Origin(NamedTuple):
    """From where and with what something was done."""

    address: str
    agent: str
