"""Bans are known to every process that reads them, and bounded in number."""

from adapters.bans import BANS_MAX, FORGIVEN_AFTER_MS, Ban, Bans
from protocol.units import TimeMs

NOW = TimeMs(1_795_400_000_000)


def test_what_another_process_says_counts_here() -> None:
    bans = Bans()
    assert bans.learn(Ban("a", TimeMs(NOW + 1_000), 3))
    assert bans.until("a", NOW) == NOW + 1_000
    assert bans.until("a", TimeMs(NOW + 1_000)) is None
    assert bans.ban("a", TimeMs(NOW + 1_000)).times == 4


def test_what_is_known_already_changes_nothing() -> None:
    bans = Bans()
    own = bans.ban("a", NOW)
    assert not bans.learn(own)
    assert not bans.learn(Ban("a", TimeMs(own.until - 1), 9))
    assert bans.ban("a", own.until).times == 2


def test_memory_is_bounded() -> None:
    bans = Bans()
    for number in range(BANS_MAX + 10):
        bans.learn(Ban(str(number), TimeMs(NOW + number + 1), 1))
    assert bans.until("0", NOW) is None
    assert bans.until(str(BANS_MAX + 9), NOW) is not None
    assert len(bans) == BANS_MAX


def test_those_that_are_forgiven_are_forgotten() -> None:
    bans = Bans()
    bans.ban("a", NOW)
    bans.forget(TimeMs(NOW + FORGIVEN_AFTER_MS))
    assert len(bans) == 1
    bans.forget(TimeMs(NOW + FORGIVEN_AFTER_MS + 120_000))
    assert not bans
