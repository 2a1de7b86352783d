"""Configuration of a shard and its markets, which decides outcomes as commands do.

It changes by commands, so it is in the log.

An operator's files serve only `exchange markets apply`, which compares them with the log and turns the
differences into commands.
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
"""Default maximum of one account's open orders in all markets together, for a new exchange."""
IN_FLIGHT_MAX: Final = 10_000
"""Default maximum of unanswered orders that one shard may have sent to another, for a new exchange."""
RULES: Final = 1
"""The version of the rules (the outcome of a command in a state) that this program follows."""


class MarketStatus(IntEnum):
    """What may be done in a market."""

    TRADING = 1
    CANCEL_ONLY = 2
    """Orders may be canceled; new ones are refused."""
    HALTED = 3
    """New orders and cancels are refused; resting orders stay."""
    ANNOUNCED = 4
    """The market is announced, and not open yet."""
    DELISTING = 5
    """Like CANCEL_ONLY, while the shard cancels the resting orders; then the status becomes DELISTED."""
    DELISTED = 6
    """No order rests, and nobody may trade.

    The trade numbers are kept, so that the market may be listed again on the same grid.
    """


class MarketConfig(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A market's configuration at its shard. `version` counts its changes from 1."""

    market: Market
    shard: Annotated[int, Meta(ge=0)]
    status: MarketStatus = MarketStatus.TRADING
    version: Annotated[int, Meta(ge=1, le=2**31)] = 1


class Role(IntEnum):
    """The commands that the holder of a key may sign."""

    OPERATOR = 1
    """Configure, restrict accounts, cancel orders, skip an entry, close accounts."""
    TREASURY = 2
    """Deposit, withdraw, withdraw fees."""
    FAUCET = 3
    """Deposit, within the key's limits: for development, where clients credit themselves."""


class KeyLimit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The most that a FAUCET key may deposit of an asset at each shard, in the asset's units."""

    asset: Annotated[str, Meta(max_length=20)]
    """Empty: every asset that has no limit of its own; the amounts are then in units of 10**-8."""
    deposit_max: Annotated[AssetUnits, Meta(ge=0, le=AMOUNT_UNITS_MAX)]
    """The maximum of one command."""
    daily_max: Annotated[AssetUnits, Meta(ge=0, le=AMOUNT_UNITS_MAX)]
    """The maximum of a day (UTC) of the shard's time."""


class OperatorKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The public half of an Ed25519 key whose holder may sign commands."""

    name: Annotated[str, Meta(min_length=1, max_length=40)]
    role: Role
    public_key: Annotated[bytes, Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    limits: Annotated[tuple[KeyLimit, ...], Meta(max_length=1_000)] = ()
    """Limits of a FAUCET key; it may not deposit an asset without a limit here."""


class ShardConfig(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A shard's configuration. `version` counts its changes from 1."""

    rules: int = RULES
    """The version of the rules: the outcome of a command in a state."""
    windows: Windows = DEFAULT_WINDOWS
    version: Annotated[int, Meta(ge=1, le=2**31)] = 1
    keys: Annotated[tuple[OperatorKey, ...], Meta(max_length=50)] = ()
    """Keys that may sign the commands of operators and of the treasury.

    Without any key, unsigned commands are valid: only for tests.
    """
    maintenance_from: Annotated[TimeMs, Meta(ge=0, le=AMOUNT_UNITS_MAX)] = TimeMs(0)
    """From this time of the shard on, orders are refused, and nothing else; 0: no maintenance.

    A future time announces maintenance.
    """
    slots: Annotated[bytes, Meta(max_length=ACCOUNT_SLOTS)] = b""
    """The shard of each account slot, one byte each. Empty: assigned round-robin (`dealt_slots`)."""
    drained_per_command: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """How many of the orders that an operator cancels are canceled with each command; 100 take about 2 ms."""
    format: Annotated[int, Meta(ge=2, le=127)] = 2
    """The format of the frames and snapshots that the shard writes.

    The default is the format of shards whose configuration does not have this field.
    """
    kinds: Annotated[int, Meta(ge=1, le=2**31)] = 1
    """The level of the kinds of events, messages and commands that the shard produces: protocol/release.py.

    The default is that of shards whose configuration does not have this field.
    """
    open_orders_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Maximum of one account's open orders in all markets together; 0: only the markets' own limits apply.

    0 is also the value of configurations without this field.
    """
    in_flight_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Maximum of orders of this shard's accounts that each other shard may have unanswered; 0: no limit.

    0 is also the value of configurations without this field. Beyond the limit an order is refused at once, so
    that a shard that has stopped, or is too slow, does not accumulate messages.
    """


class AccountLimits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The limits that an operator has set for one account; 0: only the general limits apply.

    `version` counts the changes from 1.
    """

    version: Annotated[int, Meta(ge=1, le=2**31)]
    is_frozen: bool = False
    """Orders and withdrawals are refused; cancels and deposits are accepted."""
    open_orders_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Maximum of open orders in all markets together."""
    orders_10s_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Maximum of orders in each ten seconds of the shard's time, counted while the account has limits."""
    orders_1d_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Maximum of orders in each day (UTC) of the shard's time."""
