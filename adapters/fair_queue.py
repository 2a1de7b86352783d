"""Commands that wait because their shard is busy: accounts take turns, and cancels go first.

Pure.

While a shard keeps up, nothing waits here, and commands are sent in the order of arrival. When it does not,
that order would favour the busiest sender; therefore accounts take turns, and an account with too many
waiting commands is refused alone.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from protocol.units import AccountId

T = TypeVar("T")

PER_ACCOUNT_MAX: Final = 100
"""Maximum of waiting commands of one account; further ones are refused."""
SIZE_MIN, SIZE_FIRST, SIZE_MAX = 64, 1_000, 20_000
"""Bounds and initial value of the number of commands that one process may have unanswered at a shard."""
AGE_MS_MAX: Final = 200
"""A shard whose oldest command has waited for longer is overloaded."""


class FairQueue(Generic[T]):
    """Items of accounts, taken round-robin: one of each account, then the next one of each."""

    def __init__(self, per_account_max: int = PER_ACCOUNT_MAX) -> None:
        self._per_account_max = per_account_max
        self._urgent: OrderedDict[AccountId, deque[T]] = OrderedDict()
        self._others: OrderedDict[AccountId, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All waiting items, in no particular order."""
        for queue in (self._urgent, self._others):
            for items in queue.values():
                yield from items

    def put(self, account_id: AccountId, item: T, *, is_urgent: bool) -> bool:
        """Add an item; False: the account already has the maximum.

        Urgent items are taken before all others.
        """
        items = (self._urgent if is_urgent else self._others).setdefault(account_id, deque())
        if len(items) >= self._per_account_max:
            return False
        items.append(item)
        self._count += 1
        return True

    def take(self, count: int) -> list[T]:
        """Return and remove up to `count` items."""
        taken: list[T] = []
        for queue in (self._urgent, self._others):
            while queue and len(taken) < count:
                account_id, items = queue.popitem(last=False)
                taken.append(items.popleft())
                if items:
                    queue[account_id] = items
        self._count -= len(taken)
        return taken

    def drop(self, is_dropped: Callable[[T], bool]) -> list[T]:
        """Return and remove the items for which `is_dropped` is true."""
        dropped: list[T] = []
        for queue in (self._urgent, self._others):
            for account_id, items in list(queue.items()):
                rest = deque[T]()
                for item in items:
                    (dropped if is_dropped(item) else rest).append(item)
                if rest:
                    queue[account_id] = rest
                else:
                    del queue[account_id]
        self._count -= len(dropped)
        return dropped


class Window:
    """How many commands a shard may have unanswered; adapts to its latency."""

    def __init__(self) -> None:
        self.size = SIZE_FIRST

    def adapt(self, age_ms: int, *, is_full: bool) -> None:
        """Shrink if the shard's oldest command has waited too long; otherwise grow if the window was full."""
        if age_ms > AGE_MS_MAX:
            self.size = max(SIZE_MIN, self.size * 3 // 4)
        elif is_full:
            self.size = min(SIZE_MAX, self.size + max(1, self.size // 8))
