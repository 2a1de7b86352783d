"""The rules for passwords: none that is known or can be guessed in a few attempts."""

from typing import Final

from zxcvbn import zxcvbn

from functions.api.errors import ApiError

LENGTH_MIN: Final = 8
LENGTH_MAX: Final = 1024
_GUESSES_MIN: Final = 10**6
_LOOKED_AT: Final = 16
"""Number of characters that are checked; a password with a strong beginning needs no further check.

72 characters would take up to 36 ms, during which a gateway answers nobody; 16 take 2 ms.
"""


def check_password(password: str, email: str) -> None:
    """Refuse with -1130 a password that is too short, too long, common, or derived from the address."""
    if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
        raise ApiError(-1130, f"A password has {LENGTH_MIN} to {LENGTH_MAX} characters.")
    name, _, host = email.partition("@")
    own = [word[:_LOOKED_AT] for word in (email, name, host)]
    estimate = zxcvbn(password[:_LOOKED_AT], user_inputs=own)
    if estimate["guesses"] < _GUESSES_MIN:
        raise ApiError(-1130, "This password is known to attackers, or easily guessed; choose another.")
