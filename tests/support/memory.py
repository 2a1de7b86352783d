"""Whether a process needs more and more memory for what it refuses.

TEST_REFUSED_REQUESTS and TEST_REFUSED_HANDSHAKES set how much is refused; the tests' own numbers are for
every day.
"""

import sys
from collections.abc import Callable
from typing import Final

import psutil

WARM_UP_SHARE: Final = 5
"""A fifth of the whole comes before the first measurement: caches, pools and the allocator's arenas."""
POINTS: Final = 4


def growth_of(pid: int, count: int, refuse: Callable[[int], None]) -> int:
    """Have `refuse` bring about `count` refusals, and return by how many bytes the process's resident memory
    has grown.

    The points in between are printed: `pytest -s` shows them.
    """
    process = psutil.Process(pid)
    refuse(count // WARM_UP_SHARE)
    first = last = process.memory_info().rss
    said = [f"{process.name()} {pid}: {first / 1e6:.1f} MB"]
    for number in range(1, POINTS + 1):
        refuse(count // POINTS)
        last = process.memory_info().rss
        said.append(f"after {count // POINTS * number:,}: {last / 1e6:.1f} MB")
    sys.stdout.write(f"\n{', '.join(said)}\n")
    return last - first
