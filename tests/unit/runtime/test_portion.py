"""Entries that are read at once come to a bounded number of bytes."""

from runtime.portion import FIRST, Portion

MB = 1 << 20


def test_it_grows_with_small_entries_and_shrinks_with_large_ones() -> None:
    portion = Portion(200, 8 * MB)
    assert portion.count == FIRST
    for expected in (32, 64, 128, 200, 200):
        portion.note(portion.count, portion.count * 100)
        assert portion.count == expected
    portion.note(200, 400 * MB)  # two megabytes each
    assert portion.count == 4
    portion.note(4, 8 * MB)
    assert portion.count == 4
    portion.note(4, 100 * MB)
    assert portion.count == 1, "never none"
    portion.note(0, 0)
    assert portion.count == 1, "what was not there tells nothing"


def test_who_begins_reads_no_more_than_is_bearable() -> None:
    assert Portion(200).count * 2 * MB == 32 * MB
    assert Portion(4).count == 4
