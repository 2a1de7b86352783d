"""Which passwords are taken: none that is known, or guessed in a few attempts."""

from typing import Final

from zxcvbn import zxcvbn

from functions.errors import ApiError

LENGTH_MIN: Final = 8
LENGTH_MAX: Final = 1024
_GUESSES_MIN: Final = 10**6
_LOOKED_AT: Final = 72
"""Characters that are looked at; what is as good as that needs no more, and the time to look grows faster than the length."""


def check_password(password: str, email: str) -> None:
    """Refuse with -1130 a password that is too short, too long, on the lists of attackers, or made of the address."""
    if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
        raise ApiError(-1130, f"A password has {LENGTH_MIN} to {LENGTH_MAX} characters.")
    name, _, host = email.partition("@")
    found = zxcvbn(password[:_LOOKED_AT], user_inputs=[email, name, host], max_length=_LOOKED_AT)
    if found["guesses"] < _GUESSES_MIN:
        raise ApiError(-1130, "This password is known to attackers, or easily guessed; choose another.")
