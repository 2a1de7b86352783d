"""One limit shared by several processes: the share that each may use without asking. Pure.

Redis has a *pot* for every bucket (kind of limit, owner, window): `taken` is the amount granted to processes,
`used` the amount of it that they have reported as used. A process has a *share* of the bucket: the granted,
unused amount. It admits a request at once while its share suffices; otherwise it asks, and is granted what
the request needs and, while more than the reserve (the last 5 %) is left, some more: up to a quarter of that,
and a tenth of the limit. So

- what all processes admit never exceeds `taken`, and `taken` never exceeds the limit. No clock is involved;
- a process that dies, or a lost answer, loses at most the share: nothing is returned to the pot by expiry, so
  nothing is used twice;
- in the reserve no process is granted more than a request needs, and all return their rest as soon as they
  learn of it. They also do so whenever a request needs more than is left, and the request waits for that. A
  request is therefore refused only when less than it needs is left of the limit, apart from amounts that were
  lost with a process or are held by one that has stopped.

Refused requests may count, too (`overrun`): then they are in `taken` and `used` beyond the granted amount, so
these may exceed the limit.
"""

from typing import Final, NamedTuple

RESERVE_PERCENT: Final = 5
PART: Final = 4
"""A share is at most this fraction of the amount left above the reserve."""
_FIRST_PART: Final = 50
"""The first share is this fraction of the limit."""
_LARGEST_PART: Final = 10
"""The largest share is this fraction of the limit."""


def reserve_of(limit: int) -> int:
    """Return the reserve of a limit, of which no process is granted more than a request needs."""
    return max(1, limit * RESERVE_PERCENT // 100)


class Draw(NamedTuple):
    """A process's report and request to a pot, in one step."""

    limit: int
    used: int
    """The amount used since the last report; negative: it has taken back a reported amount."""
    returned: int
    """The amount returned of its share; negative: it has taken more than it was granted."""
    needed: int
    """The amount a request needs: it is granted and used at once, or nothing is granted; 0: no request."""
    wished: int
    """The additional amount wished for."""


class Word(NamedTuple):
    """The state of a pot."""

    used: int
    taken: int
    version: int
    """Increases with every change."""


def drawn(pot: Word, draw: Draw) -> tuple[int, Word]:
    """Return the granted amount, and the pot after it.

    The script in adapters/limit_exchange.py does the same in Redis.
    """
    taken, used = max(0, pot.taken - draw.returned), pot.used + draw.used
    given = 0
    if draw.limit - taken >= draw.needed:
        spare = (draw.limit - taken - draw.needed - reserve_of(draw.limit)) // PART
        given = draw.needed + max(0, min(draw.wished, spare))
        used += draw.needed
    return given, Word(used, taken + given, pot.version + 1)


EMPTY: Final = Word(0, 0, 0)


class Bucket(NamedTuple):
    """A kind of limit, its owner, and the number of the window since the epoch."""

    kind: str
    owner: str
    window: int


class Share:
    """One process's view of a bucket."""

    __slots__ = (
        "borrowed",
        "bucket",
        "is_dirty",
        "key",
        "left",
        "limit",
        "lost",
        "outage",
        "place",
        "said",
        "taken",
        "unsaid",
        "used",
        "version",
        "wished",
    )

    def __init__(self, bucket: Bucket, limit: int, key: str = "", place: int = 0) -> None:
        self.bucket = bucket
        self.key = key
        """The key of its pot in Redis."""
        self.place = place
        """The shard on whose node its pot is."""
        self.limit = limit
        self.left = 0
        """The amount that may be used without asking."""
        self.unsaid = 0
        """The amount used since the last report."""
        self.said = 0
        """The reported amount that is not confirmed."""
        self.borrowed = 0
        """The amount taken without being granted, while the pot was unreachable."""
        self.used = self.taken = self.version = 0
        """The last known state of the pot; version 0: unknown."""
        self.lost = 0
        """The amount that other processes hold and did not return when it was waited for."""
        self.wished = 0
        """The additional amount wished for that is not answered."""
        self.is_dirty = False
        """Whether it is scheduled for a report."""
        self.outage = 0
        """The number of the last outage in which some was borrowed; 0: none."""

    @property
    def count(self) -> int:
        """The amount used by all processes, as far as known; at least 0."""
        count = self.used + self.said + self.unsaid
        return count if count > 0 else 0

    @property
    def is_known(self) -> bool:
        """Whether the pot is known, or was unreachable."""
        return self.version > 0 or self.outage > 0

    @property
    def is_in_reserve(self) -> bool:
        """Whether little is left of the limit, so that no process should hold any of it."""
        return self.limit - self.taken <= reserve_of(self.limit)

    def take(self, needed: int) -> bool:
        """Use some of the share; return whether it sufficed."""
        if self.left < needed:
            return False
        self.left -= needed
        self.unsaid += needed
        return True

    def take_back(self, units: int) -> None:
        """Take back a used amount. It cannot exceed the used amount."""
        count = self.used + self.said + self.unsaid
        if count < units:
            units = max(0, count)
        self.left += units
        self.unsaid -= units

    def overrun(self, units: int) -> None:
        """Count a refused request."""
        self.unsaid += units
        self.borrowed += units

    def is_out(self, needed: int) -> bool:
        """Return whether asking is futile: too little is left, and no process will return any."""
        return self.version > 0 and self.limit - self.taken < needed and self.taken - self.used <= self.lost

    def awaits(self, needed: int) -> bool:
        """Return whether too little is left, and other processes hold amounts that they will return."""
        return self.limit - self.taken < needed and self.taken - self.used > self.lost

    def give_up_on_others(self) -> None:
        """Record that the amounts held by other processes will not be returned."""
        self.lost = max(self.lost, self.taken - self.used)

    def borrow(self, outage: int, processes: int) -> None:
        """Borrow a part of the last known rest of an unreachable pot; `processes` processes may do the same.

        Once per outage; outages are numbered from 1.
        """
        if self.outage != outage:
            self.outage = outage
            left = self.limit - max(self.taken, self.count)
            units = max(left // processes, min(1, left), 0)
            self.left += units
            self.borrowed += units

    def draw(self, needed: int = 0, *, tops_up: bool = False, leaves: bool = False) -> Draw:
        """Return the next report and request; `answered`, `not_sent` or `not_answered` must follow.

        The whole share is returned if other processes may need it, including borrowed and unused amounts, and
        by a process that `leaves`. `tops_up`: ask for the amount that will be used soon.
        """
        hands_back = leaves or self.is_in_reserve or self.borrowed or self.limit - self.taken < needed
        kept = 0 if hands_back else self.left
        wished = 0
        if needed or tops_up:
            pace = min(max(self.limit // _FIRST_PART, 2 * self.unsaid), self.limit // _LARGEST_PART)
            wished = max(0, pace - kept - self.wished)
        draw = Draw(self.limit, self.unsaid, self.left - kept - self.borrowed, needed, wished)
        self.left, self.unsaid, self.borrowed = kept, 0, 0
        self.wished += wished
        self.said += draw.used
        return draw

    def answered(self, draw: Draw, given: int, word: Word) -> bool:
        """Add the granted amount; return whether the request got what it needs."""
        self.wished -= draw.wished
        self.said -= draw.used
        is_met = given >= draw.needed
        if is_met:
            self.left += given - draw.needed
        self.hear(word)
        return is_met

    def not_sent(self, draw: Draw) -> None:
        """Undo a report that was not sent."""
        self.wished -= draw.wished
        self.said -= draw.used
        self.unsaid += draw.used
        if draw.returned > 0:
            self.left += draw.returned
        else:
            self.borrowed -= draw.returned

    def not_answered(self, draw: Draw) -> None:
        """Handle a report that may or may not have arrived.

        The returned amount is lost, the used amount is reported again.
        """
        self.wished -= draw.wished
        self.said -= draw.used
        self.unsaid += draw.used
        self.borrowed += max(0, -draw.returned)

    def hear(self, word: Word) -> bool:
        """Update the state of the pot; return whether it has changed."""
        if word.version <= self.version:
            return False
        self.used, self.taken, self.version = word
        if self.taken - self.used < self.lost:
            self.lost = max(0, self.taken - self.used)
        return True
