"""What decides outcomes beside commands: how a shard and its markets are configured.

It changes by commands, so it is in the log.

The files of an operator are only what `exchange markets apply` compares with that, and turns into commands.
"""

from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.market import ACCOUNT_SLOTS, Market
from protocol.units import AMOUNT_UNITS_MAX, AssetUnits, TimeMs
from protocol.windows import DEFAULT_WINDOWS, Windows

PUBLIC_KEY_BYTES: Final = 32

OPEN_ORDERS_MAX: Final = 1_000
"""Open orders that one account may have in all markets together, in a new exchange that does not say
otherwise."""
IN_FLIGHT_MAX: Final = 10_000
"""Orders that one shard may have sent to another one without an answer, in a new exchange that does not say
otherwise."""
RULES: Final = 1
"""The version of the rules that this program follows: what comes of a command in a state."""


class MarketStatus(IntEnum):
    """What may be done in a market."""

    TRADING = 1
    CANCEL_ONLY = 2
    """Orders may be canceled; new ones are refused."""
    HALTED = 3
    """New orders and cancels are refused; what rests stays where it is."""
    ANNOUNCED = 4
    """It is known, and not open yet."""
    DELISTING = 5
    """As CANCEL_ONLY, while the shard cancels what still rests; it becomes DELISTED by itself."""
    DELISTED = 6
    """Nothing rests there, and nobody may trade.

    Its numbers of trades stay, so that it may be listed again on the same grid.
    """


class MarketConfig(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A market as its shard has it. `version` counts its changes from 1."""

    market: Market
    shard: Annotated[int, Meta(ge=0)]
    status: MarketStatus = MarketStatus.TRADING
    version: Annotated[int, Meta(ge=1, le=2**31)] = 1


class Role(IntEnum):
    """What the holder of a key may say."""

    OPERATOR = 1
    """Configure, restrict accounts, cancel orders, pass an entry, close accounts."""
    TREASURY = 2
    """Deposit, withdraw, take fees out."""
    FAUCET = 3
    """Deposit, within the key's limits: for development, where clients credit themselves."""


class KeyLimit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The most that a FAUCET key may deposit of an asset at each shard, in the asset's units."""

    asset: Annotated[str, Meta(max_length=20)]
    """Empty: every asset that has no limit of its own.

    The amounts are then in units of 10**-8, whatever its scale.
    """
    deposit_max: Annotated[AssetUnits, Meta(ge=0, le=AMOUNT_UNITS_MAX)]
    """By one command."""
    daily_max: Annotated[AssetUnits, Meta(ge=0, le=AMOUNT_UNITS_MAX)]
    """In a day (UTC) of the shard's time."""


class OperatorKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The public half of an Ed25519 key whose holder may sign commands."""

    name: Annotated[str, Meta(min_length=1, max_length=40)]
    role: Role
    public_key: Annotated[bytes, Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    limits: Annotated[tuple[KeyLimit, ...], Meta(max_length=1_000)] = ()
    """Of a FAUCET key; it may deposit nothing that has no limit here."""


class ShardConfig(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a shard follows. `version` counts its changes from 1."""

    rules: int = RULES
    """What comes of a command in a state."""
    windows: Windows = DEFAULT_WINDOWS
    version: Annotated[int, Meta(ge=1, le=2**31)] = 1
    keys: Annotated[tuple[OperatorKey, ...], Meta(max_length=50)] = ()
    """Who may sign the commands of operators and of the treasury.

    With no key, unsigned ones count: that is for tests alone.
    """
    maintenance_from: Annotated[TimeMs, Meta(ge=0, le=AMOUNT_UNITS_MAX)] = TimeMs(0)
    """From this time of the shard on orders are refused, and nothing else; 0: no maintenance.

    A time to come is an announcement.
    """
    slots: Annotated[bytes, Meta(max_length=ACCOUNT_SLOTS)] = b""
    """The shard of each account slot, a byte each. Empty: dealt out in order (`dealt_slots`)."""
    drained_per_command: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Of the orders that are to be canceled for an operator, so many are with each command, some 2 ms."""
    format: Annotated[int, Meta(ge=2, le=127)] = 2
    """The format of the frames and snapshots that the shard writes.

    The default is what shards wrote before they said so.
    """
    kinds: Annotated[int, Meta(ge=1, le=2**31)] = 1
    """The level of the kinds of events, messages and commands that are produced, see protocol/release.py.

    The default as above.
    """
    open_orders_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Open orders that one account may have in all markets together. 0, the default as above: as many as its
    markets let it have."""
    in_flight_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Orders of this shard's accounts that each other shard may have without having answered them. 0, the
    default as above: any number. Beyond that an order is refused at once: a shard that stands still, or is
    slower than what is sent, does not fill up with mail."""


class AccountLimits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an operator has set for one account; 0 is no limit beyond those of everybody.

    `version` counts the changes from 1.
    """

    version: Annotated[int, Meta(ge=1, le=2**31)]
    is_frozen: bool = False
    """Orders and withdrawals are refused; cancels and deposits are not."""
    open_orders_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Open orders in all markets together."""
    orders_10s_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Orders in each ten seconds of the shard's time, counted while the account has limits."""
    orders_1d_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Orders in each day (UTC) of the shard's time."""
