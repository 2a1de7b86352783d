"""Who may say what to a shard: the keys that it knows, and what a faucet's key has given away."""

from collections.abc import Mapping
from typing import Final

from protocol.commands import (
    CancelOrders,
    CloseAccount,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    LimitAccount,
    Signed,
    SignedBody,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import OperatorKey, Role
from protocol.market import Asset
from protocol.orders import RejectReason
from protocol.signing import is_genuine
from protocol.units import SCALE_MAX, AssetUnits, TimeMs

ROLES: Final[dict[type, frozenset[Role]]] = {
    Deposit: frozenset({Role.TREASURY, Role.FAUCET}),
    Withdraw: frozenset({Role.TREASURY}),
    WithdrawFees: frozenset({Role.TREASURY}),
    ConfigureShard: frozenset({Role.OPERATOR}),
    ConfigureMarket: frozenset({Role.OPERATOR}),
    CloseAccount: frozenset({Role.OPERATOR}),
    LimitAccount: frozenset({Role.OPERATOR}),
    CancelOrders: frozenset({Role.OPERATOR}),
}
"""The commands that need a signature, and whose."""
_DAY_MS: Final = 86_400_000


class Authority:
    """The keys of one shard."""

    __slots__ = ("given", "keys")

    def __init__(self) -> None:
        self.keys: dict[str, OperatorKey] = {}
        """By name. None at all: unsigned commands count."""
        self.given: dict[tuple[str, str], tuple[int, AssetUnits]] = {}
        """(FAUCET key, asset) -> (the day of its last deposit, what it deposited on that day)."""

    def set_keys(self, keys: tuple[OperatorKey, ...]) -> None:
        """Know these keys from now on, and no others."""
        self.keys = {key.name: key for key in keys}
        self.given = {each: amount for each, amount in self.given.items() if each[0] in self.keys}

    def reason_to_refuse(
        self,
        signed: Signed,
        command: SignedBody,
        shard: int,
        entered: TimeMs,
        window_ms: int,
        time: TimeMs,
        assets: Mapping[str, Asset],
    ) -> RejectReason | None:
        """Return why a signed command does not count, or None; its entry was appended at `entered`."""
        key = self.keys.get(signed.key)
        if (
            key is None
            or signed.shard != shard
            or key.role not in ROLES[type(command)]
            or not command.reply_to
            or not command.request_id
            or signed.deadline_ms > entered + window_ms
            or not is_genuine(signed, key.public_key)
        ):
            return RejectReason.NOT_AUTHORIZED
        if entered > signed.deadline_ms:
            return RejectReason.TOO_LATE
        if key.role is not Role.FAUCET or not isinstance(command, Deposit):
            return None
        # An asset that is not known has no scale; its deposit is refused for that.
        scale = assets[command.asset].scale if command.asset in assets else SCALE_MAX
        return None if self._is_within_limits(key, command, time, scale) else RejectReason.NOT_AUTHORIZED

    def may_skip(self, signed: Signed | None, shard: int) -> bool:
        """Return whether an instruction to pass over an entry of `shard` counts.

        `signed` is None when it has no signature.

        A shard without keys follows every one: it has no configuration yet, or is one of a test.
        """
        if not self.keys:
            return True
        key = self.keys.get(signed.key) if signed is not None else None
        return (
            signed is not None
            and key is not None
            and signed.shard == shard
            and key.role is Role.OPERATOR
            and is_genuine(signed, key.public_key)
        )

    def _is_within_limits(self, key: OperatorKey, deposit: Deposit, time: TimeMs, scale: int) -> bool:
        limits = {each.asset: each for each in key.limits}
        limit = limits.get(deposit.asset) or limits.get("")
        if limit is None:
            return False
        # The limit of every asset is the same number of whole ones, so it is in units of 10**-8 (`KeyLimit`).
        unit = 1 if limit.asset else 10 ** (SCALE_MAX - scale)
        if deposit.amount * unit > limit.deposit_max:
            return False
        day, given = self.given.get((key.name, deposit.asset), (0, 0))
        return ((given if day == time // _DAY_MS else 0) + deposit.amount) * unit <= limit.daily_max

    def count(self, key: OperatorKey, deposit: Deposit, time: TimeMs) -> None:
        """Remember that a deposit went through, if its key has limits."""
        if key.role is not Role.FAUCET:
            return
        day, given = self.given.get((key.name, deposit.asset), (0, 0))
        today = time // _DAY_MS
        total = AssetUnits((given if day == today else 0) + deposit.amount)
        self.given[key.name, deposit.asset] = (today, total)
