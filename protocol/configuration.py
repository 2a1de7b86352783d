"""What decides outcomes beside commands: how a shard and its markets are configured. It changes by commands, so it is in the log.

The files of an operator are only what `exchange markets apply` compares with that, and turns into commands.
"""

from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.market import Market
from protocol.windows import DEFAULT_WINDOWS, Windows

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
    """It is about to be delisted: orders may be canceled; new ones are refused."""
    DELISTED = 6
    """Nothing can be traded in it any more; what happened in it stays in its accounts' history."""


class MarketConfig(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A market as its shard has it. `version` counts its changes from 1."""

    market: Market
    shard: Annotated[int, Meta(ge=0)]
    status: MarketStatus = MarketStatus.TRADING
    version: Annotated[int, Meta(ge=1, le=2**31)] = 1


class ShardConfig(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a shard follows. `version` counts its changes from 1."""

    rules: int = RULES
    windows: Windows = DEFAULT_WINDOWS
    version: Annotated[int, Meta(ge=1, le=2**31)] = 1
