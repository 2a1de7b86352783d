"""Which passwords are taken."""

import pytest

from functions.api.errors import ApiError
from functions.users.password_rules import check_password

EMAIL = "alice.somebody@example.com"


@pytest.mark.parametrize(
    "password",
    [
        "seven 7",
        "password",
        "12345678",
        "aaaaaaaa",
        "passwordpassword",
        "a" * 60,
        EMAIL,
        "alice.somebody",
        "x" * 1025,
    ],
)
def test_passwords_that_are_tried_first_are_refused(password: str) -> None:
    with pytest.raises(ApiError) as refused:
        check_password(password, EMAIL)
    assert refused.value.code == -1130


@pytest.mark.parametrize("password", ["an entirely different staple", "f3Zq-81kx", "käsebrot und wein"])
def test_others_are_taken(password: str) -> None:
    check_password(password, EMAIL)
