"""Commands that wait because their shard has enough to do: each account gets its turn, and cancels go first.

Pure.

As long as a shard keeps up, nothing waits here and commands go in the order in which they came. When it does
not, the order of arrival would give most to whoever sends most; so then accounts take turns, and an account
that has too much waiting is refused alone.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from protocol.units import AccountId

T = TypeVar("T")

PER_ACCOUNT_MAX: Final = 100
"""Commands of one account that may wait; further ones are refused."""
SIZE_MIN, SIZE_FIRST, SIZE_MAX = 64, 1_000, 20_000
"""Commands that one process lets a shard have unanswered."""
AGE_MS_MAX: Final = 200
"""A shard whose oldest command has waited for longer has too much to do."""


class FairQueue(Generic[T]):
    """Items of accounts, which are taken in turns: one of each account that has any, then the next one of
    each.
    """

    def __init__(self, per_account_max: int = PER_ACCOUNT_MAX) -> None:
        self._per_account_max = per_account_max
        self._urgent: OrderedDict[AccountId, deque[T]] = OrderedDict()
        self._others: OrderedDict[AccountId, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All that wait, in no particular order."""
        for queue in (self._urgent, self._others):
            for items in queue.values():
                yield from items

    def put(self, account_id: AccountId, item: T, *, is_urgent: bool) -> bool:
        """Let an item wait; False: so many of the account do already.

        What is urgent is taken before all that is not.
        """
        items = (self._urgent if is_urgent else self._others).setdefault(account_id, deque())
        if len(items) >= self._per_account_max:
            return False
        items.append(item)
        self._count += 1
        return True

    def take(self, count: int) -> list[T]:
        """Return up to so many items, and let the others wait on."""
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
        """Return the items that are dropped; they wait no more."""
        dropped: list[T] = []
        for queue in (self._urgent, self._others):
            for account_id, items in list(queue.items()):
                kept = deque[T]()
                for item in items:
                    (dropped if is_dropped(item) else kept).append(item)
                if kept:
                    queue[account_id] = kept
                else:
                    del queue[account_id]
        self._count -= len(dropped)
        return dropped


class Window:
    """How many commands a shard may have unanswered: as many as it answers soon, found out by trying."""

    def __init__(self) -> None:
        self.size = SIZE_FIRST

    def adapt(self, age_ms: int, *, is_full: bool) -> None:
        """Shrink when the shard's oldest command has waited for long, and grow while it has not and more
        would be sent.
        """
        if age_ms > AGE_MS_MAX:
            self.size = max(SIZE_MIN, self.size * 3 // 4)
        elif is_full:
            self.size = min(SIZE_MAX, self.size + max(1, self.size // 8))
