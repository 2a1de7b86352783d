"""What was read of the list of revocations counts for a second."""

from adapters.revocations import FRESH_S, KEPT_MAX, RevokedCredentials


def test_nothing_is_fresh_before_the_list_was_read() -> None:
    assert not RevokedCredentials().is_fresh(0.0)


def test_it_is_fresh_for_a_second_after_it_was_read() -> None:
    revoked = RevokedCredentials()
    revoked.looked(10.0)
    assert revoked.is_fresh(10.0 + FRESH_S)
    assert not revoked.is_fresh(10.01 + FRESH_S)


def test_what_is_on_the_list_is_new_once() -> None:
    revoked = RevokedCredentials()
    assert (revoked.hear("key:a"), revoked.hear("key:a"), "key:a" in revoked, "key:b" in revoked) == (
        True,
        False,
        True,
        False,
    )


def test_the_oldest_are_forgotten() -> None:
    revoked = RevokedCredentials()
    for number in range(KEPT_MAX + 1):
        revoked.hear(f"key:{number}")
    assert "key:0" not in revoked
    assert f"key:{KEPT_MAX}" in revoked
