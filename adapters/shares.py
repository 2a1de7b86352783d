"""One limit that several processes work under: what a process may use without asking, and what comes of
asking. Pure.

Redis has a *pot* for every bucket (what is counted, whose, in which window): `taken` is what processes were
given of it, `used` what they have said they used of that. A process has a *share* of the bucket: what it was
given and has not used. It admits a request at once while its share reaches; else it asks, and is given what
the request needs and, while more than the reserve (the last 5 %) is left, some more: up to a quarter of that,
and a tenth of the limit. So

- what all processes admit never exceeds `taken`, and `taken` never exceeds the limit. No clock is part of
  that;
- a process that dies, or an answer that is lost, takes along at most the share: nothing expires into the pot,
  so nothing is used twice;
- in the reserve nobody is given more than a request needs, and everybody hands back what is left of the share
  as soon as they hear. So they do whenever somebody needs more than there is, who waits for that. So a
  request is refused only when less than it needs is left of the limit, not counting what was lost with a
  process, or is held by one that stands still.

What is refused may count, too (`overrun`): then it is in `taken` and `used` beyond what was given, so these
may exceed the limit.
"""

from typing import Final, NamedTuple

RESERVE_PERCENT: Final = 5
PART: Final = 4
"""A share is at most this part of what is left above the reserve."""
_FIRST_PART: Final = 50
"""A first share is this part of the limit."""
_LARGEST_PART: Final = 10
"""And so large is the largest."""


def reserve_of(limit: int) -> int:
    """Return the last part of a limit, of which nobody gets more than a request needs."""
    return max(1, limit * RESERVE_PERCENT // 100)


class Draw(NamedTuple):
    """What a process tells and asks of a pot, in one step."""

    limit: int
    used: int
    """What it has used since it said so last; less than 0: it has taken something back that it had said."""
    returned: int
    """What it hands back of its share; less than 0: it has taken more than it was given."""
    needed: int
    """What a request needs: it is given and used at once, or nothing is given; 0: there is no request."""
    wished: int
    """What it would like besides."""


class Word(NamedTuple):
    """How a pot stands."""

    used: int
    taken: int
    version: int
    """Rises with every change."""


def drawn(pot: Word, draw: Draw) -> tuple[int, Word]:
    """Return what is given, and the pot after it.

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
    """What is counted, whose, and in which window (its number since the epoch)."""

    kind: str
    owner: str
    window: int


class Share:
    """One bucket as one process has it."""

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
        """Of its pot in Redis."""
        self.place = place
        """The shard where its pot is."""
        self.limit = limit
        self.left = 0
        """What may be used without asking."""
        self.unsaid = 0
        """What was used since it was said last."""
        self.said = 0
        """What was told, and is not answered."""
        self.borrowed = 0
        """What was taken without having been given, as long as nobody could be asked."""
        self.used = self.taken = self.version = 0
        """The pot as it was heard of last; version 0: never."""
        self.lost = 0
        """What was given to somebody, and did not come back when it was waited for."""
        self.wished = 0
        """What was asked for besides what requests need, and is not answered."""
        self.is_dirty = False
        """Whether it is among those that are told of soon."""
        self.outage = 0
        """The last outage in which some was borrowed, by its number; 0: none."""

    @property
    def count(self) -> int:
        """What all processes have used, as far as this one knows; never less than 0."""
        count = self.used + self.said + self.unsaid
        return count if count > 0 else 0

    @property
    def is_known(self) -> bool:
        """Whether the pot was ever heard of, or nobody could be asked for it."""
        return self.version > 0 or self.outage > 0

    @property
    def is_in_reserve(self) -> bool:
        """Whether little is left of the limit, so that nobody should hold any of it."""
        return self.limit - self.taken <= reserve_of(self.limit)

    def take(self, needed: int) -> bool:
        """Use some of the share; return whether it reached."""
        if self.left < needed:
            return False
        self.left -= needed
        self.unsaid += needed
        return True

    def take_back(self, units: int) -> None:
        """Note that what was used is not used after all. It cannot be more than was."""
        count = self.used + self.said + self.unsaid
        if count < units:
            units = max(0, count)
        self.left += units
        self.unsaid -= units

    def overrun(self, units: int) -> None:
        """Count what was refused."""
        self.unsaid += units
        self.borrowed += units

    def is_out(self, needed: int) -> bool:
        """Return whether asking is in vain: too little is left, and nobody holds any of it who will hand it
        back.
        """
        return self.version > 0 and self.limit - self.taken < needed and self.taken - self.used <= self.lost

    def awaits(self, needed: int) -> bool:
        """Return whether somebody holds what will be handed back, and too little is left without."""
        return self.limit - self.taken < needed and self.taken - self.used > self.lost

    def give_up_on_others(self) -> None:
        """Note that what others hold does not come back."""
        self.lost = max(self.lost, self.taken - self.used)

    def borrow(self, outage: int, processes: int) -> None:
        """Take a part of what was left when the pot was heard of last: nobody can be asked, and so many
        processes may do the same.

        Once in an outage, which has a number from 1 on.
        """
        if self.outage != outage:
            self.outage = outage
            left = self.limit - max(self.taken, self.count)
            units = max(left // processes, min(1, left), 0)
            self.left += units
            self.borrowed += units

    def draw(self, needed: int = 0, *, tops_up: bool = False, leaves: bool = False) -> Draw:
        """Return what to tell and to ask, which is then on its way: `answered`, `not_sent` or `not_answered`
        ends that.

        Everything in hand is handed back where others may need it, also what was borrowed and not used, and
        by a process that `leaves`. `tops_up`: ask for what will be used soon.
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
        """Take what was given; return whether the request has got what it needs."""
        self.wished -= draw.wished
        self.said -= draw.used
        is_met = given >= draw.needed
        if is_met:
            self.left += given - draw.needed
        self.hear(word)
        return is_met

    def not_sent(self, draw: Draw) -> None:
        """Take back what was to be told: it was not."""
        self.wished -= draw.wished
        self.said -= draw.used
        self.unsaid += draw.used
        if draw.returned > 0:
            self.left += draw.returned
        else:
            self.borrowed -= draw.returned

    def not_answered(self, draw: Draw) -> None:
        """Note that nobody knows whether it was told: what was handed back is gone, what was used is told
        again.
        """
        self.wished -= draw.wished
        self.said -= draw.used
        self.unsaid += draw.used
        self.borrowed += max(0, -draw.returned)

    def hear(self, word: Word) -> bool:
        """Note how the pot stands; return whether that is news."""
        if word.version <= self.version:
            return False
        self.used, self.taken, self.version = word
        if self.taken - self.used < self.lost:
            self.lost = max(0, self.taken - self.used)
        return True
