"""Kinds of activity on an account, and its origin.

`functions.repositories.activity` stores activity and never changes it.
"""

from enum import StrEnum
from typing import Final, NamedTuple

AGENT_MAX: Final = 200
"""Maximum of stored characters of a User-Agent."""


class Activity(StrEnum):
    """Kinds of activity."""

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
    """The address and program of a request."""

    address: str
    agent: str
