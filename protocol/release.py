"""What a release reads and writes: the format of frames, the level of their kinds, and the rules.

Each is a number. A shard's configuration says which numbers the shard writes and follows now. A release reads
the numbers of the previous release and its own. It writes and follows those of the configuration, so that the
previous release can take over again until an operator switches all shards to the new numbers (`exchange
formats switch`, docs/decisions/0027). The numbers never decrease.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from protocol import codec, configuration
from protocol.codec import LaterFormatError
from protocol.commands import (
    CancelAllOrders,
    CancelMissed,
    CancelOrder,
    CancelOrders,
    CancelResting,
    CloseAccount,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    KnowMarket,
    LimitAccount,
    MakerFill,
    MatchOrder,
    PlaceOrder,
    RestingClosed,
    Signed,
    SkipEntry,
    TakerOutcome,
    Tick,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import ShardConfig
from protocol.events import (
    AccountClosed,
    AccountLimited,
    DepthChanged,
    EntrySkipped,
    FeesWithdrawn,
    FundsDeposited,
    FundsReleased,
    FundsWithdrawn,
    MarketConfigured,
    MatchPrevented,
    OrderAccepted,
    OrderClosed,
    OrderFilled,
    ShardConfigured,
    StateHashed,
    TimePassed,
    TradeExecuted,
)

KINDS: Final = 1
"""The newest level of kinds that this program reads.

A release that raises it raises the format, too. A process of an earlier release that is started after the
switch then waits at the first frame instead of discarding events.
"""
OLDEST_RULES: Final = 1
"""The oldest rules that this program follows."""

LEVELS: Final[Mapping[type, int]] = dict.fromkeys(
    (
        # commands
        PlaceOrder, CancelOrder, CancelAllOrders, Deposit, Withdraw, Tick, ConfigureShard, ConfigureMarket,
        WithdrawFees, CloseAccount,
        SkipEntry, LimitAccount, CancelOrders, Signed,
        # messages
        MatchOrder, CancelResting, TakerOutcome, MakerFill, RestingClosed, CancelMissed, KnowMarket,
        # events
        TradeExecuted, DepthChanged, OrderAccepted, OrderFilled, OrderClosed, FundsDeposited, FundsWithdrawn,
        FundsReleased, StateHashed,
        TimePassed, MarketConfigured, ShardConfigured, AccountLimited, FeesWithdrawn, AccountClosed,
        MatchPrevented, EntrySkipped,
    ),
    1,
)  # fmt: skip
"""Kind -> its level. A shard produces no kind above the level of its configuration.

A new kind has the level of the release that introduces it.
"""


class Release(NamedTuple):
    """The newest numbers that a program reads, or those that a shard writes and follows."""

    format: int
    kinds: int
    rules: int


class LaterReleaseError(LaterFormatError):
    """A shard has been switched to numbers that only a later release reads.

    This program must not decide the outcome of the shard's input.
    """

    def __init__(self, reason: str, number: int) -> None:
        Exception.__init__(self, reason)
        self.number = number


def this_release() -> Release:
    """Return the newest numbers that this program reads."""
    return Release(codec.FORMAT, KINDS, configuration.RULES)


def release_of(config: ShardConfig) -> Release:
    """Return the numbers that a shard with this configuration writes and follows."""
    return Release(config.format, config.kinds, config.rules)


def why_later(config: ShardConfig) -> str | None:
    """Return why this program is too old to lead a shard with this configuration; None: it may lead."""
    wanted, known = release_of(config), this_release()
    if wanted.rules > known.rules:
        return f"follows rules {wanted.rules}, this program knows them up to {known.rules}"
    if wanted.format > known.format:
        return f"writes format {wanted.format}, this program reads up to {known.format}"
    if wanted.kinds > known.kinds:
        return f"writes kinds of level {wanted.kinds}, this program reads up to {known.kinds}"
    return None


def why_too_early(config: ShardConfig) -> str | None:
    """Return why this program is too new to lead a shard with this configuration; None: it may lead."""
    if config.rules < OLDEST_RULES:
        return f"follows rules {config.rules}, this program knows them from {OLDEST_RULES} on"
    if config.format < codec.OLDEST_FORMAT:
        return f"writes format {config.format}, this program writes {codec.OLDEST_FORMAT} and later ones"
    return None


def too_new(produced: Iterable[object], kinds: int) -> str | None:
    """Return the name of the first item whose kind is above the level `kinds`, or None."""
    for each in produced:
        if LEVELS[type(each)] > kinds:
            return type(each).__name__
    return None
