"""How full a shard counts as."""

import pytest

from adapters.backlog import filled

MB = 1 << 20


@pytest.mark.parametrize(
    ("used_mb", "maxmemory_mb", "log_mb", "expected"),
    [
        (0, 100, 0, 0.0),
        (75, 100, 0, 1.0),  # three quarters of the server are for orders
        (90, 100, 0, 1.2),
        (500, 0, 0, 0.0),  # no maxmemory: only the log counts
        (10, 100, 50, 0.5),  # a log of 100 MB is allowed
        (10, 100, 120, 1.2),
        (75, 100, 50, 1.0),  # the fuller of the two
    ],
)
def test_the_fuller_of_server_and_log_counts(
    used_mb: int, maxmemory_mb: int, log_mb: int, expected: float
) -> None:
    assert filled(used_mb * MB, maxmemory_mb * MB, log_mb * MB, 100 * MB) == pytest.approx(expected)
