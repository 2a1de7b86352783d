"""Who may use a browser's cookie: the exchange's own page, and nobody who makes its browser ask."""

import pytest

from functions.api.errors import ApiError
from functions.users.session_cookies import COOKIE, cookie_that_signs_in, token_in
from functions.users.sessions import csrf_token
from gateway.origins import check_page

TOKEN = "token"
OURS, THEIRS = b"https://exchange.test", b"https://evil.test"
ORIGINS = frozenset({OURS})
GOOD = {b"origin": OURS, b"x-csrf-token": csrf_token(TOKEN).encode(), b"sec-fetch-site": b"same-origin"}


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", GOOD),
        (
            "DELETE",
            {b"origin": OURS, b"x-csrf-token": csrf_token(TOKEN).encode()},
        ),  # a browser without fetch metadata
        ("GET", {b"sec-fetch-site": b"same-origin"}),
        ("GET", {b"sec-fetch-site": b"none"}),
        ("GET", {}),
    ],
)
def test_the_own_page_is_let_through(method: str, headers: dict[bytes, bytes]) -> None:
    check_page(method, headers, TOKEN, ORIGINS)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {**GOOD, b"origin": THEIRS}),
        ("POST", {**GOOD, b"origin": b"null"}),
        ("POST", {**GOOD, b"sec-fetch-site": b"cross-site"}),
        ("POST", {**GOOD, b"sec-fetch-site": b"same-site"}),
        ("POST", {**GOOD, b"x-csrf-token": csrf_token("another").encode()}),
        ("POST", {name: value for name, value in GOOD.items() if name != b"x-csrf-token"}),
        ("POST", {name: value for name, value in GOOD.items() if name != b"origin"}),
        ("DELETE", {**GOOD, b"x-csrf-token": b""}),
        ("GET", {b"origin": THEIRS}),
        ("GET", {b"sec-fetch-site": b"cross-site"}),
    ],
)
def test_what_another_page_may_have_made_the_browser_send_is_refused(
    method: str, headers: dict[bytes, bytes]
) -> None:
    with pytest.raises(ApiError) as refused:
        check_page(method, headers, TOKEN, ORIGINS)
    assert (refused.value.code, refused.value.status) == (-1002, 403)


def test_the_cookie_cannot_be_read_by_scripts_or_sent_from_elsewhere() -> None:
    name, value = cookie_that_signs_in("abc", 60)
    assert (name, value) == (
        b"set-cookie",
        b"__Host-session=abc; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Strict",
    )


@pytest.mark.parametrize(
    ("cookies", "token"),
    [
        (f"{COOKIE}=abc", "abc"),
        (f"a=b; {COOKIE}=abc; c=d", "abc"),
        ("session=abc", ""),
        (f"x{COOKIE}=abc", ""),
        ("", ""),
    ],
)
def test_the_token_of_a_cookie_header(cookies: str, token: str) -> None:
    assert token_in(cookies) == token
