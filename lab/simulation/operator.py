"""An operator with signing keys, and a forger who can only write to the shards' input.

Both send the same kinds of commands. The operator's signed commands are recorded: no others may have an
effect.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_worker.core.shard_state import ShardState
from lab.simulation.markets import OPEN_ORDERS_MAX
from lab.simulation.next_release import NEXT
from lab.simulation.process import Surroundings, Violation
from lab.simulation.schedule import CLIENTS, Dice
from protocol import streams, switching
from protocol.codec import encode_commands
from protocol.commands import (
    CancelOrders,
    CloseAccount,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    LimitAccount,
    LoggedCommand,
    Signed,
    SignedBody,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import AccountLimits, MarketStatus, OperatorKey, Role, ShardConfig
from protocol.events import (
    AccountLimited,
    Event,
    FeesWithdrawn,
    FundsDeposited,
    MarketConfigured,
    OrderAccepted,
    ShardConfigured,
    TradeExecuted,
)
from protocol.signing import sign
from protocol.streams import COMMANDS_FIELD
from protocol.switching import Reader
from protocol.units import AccountId, AssetUnits, TimeMs
from stream_log.memory_log import MemoryStreamLog

SIGNED_MS: Final = 20_000
"""So long a signature counts."""
OPERATORS: Final = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2)]
"""The operator's key, and the one that takes its place."""
TREASURY: Final = Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32)
STRANGER: Final = Ed25519PrivateKey.from_private_bytes(bytes([4]) * 32)


def _public(name: str, role: Role, key: Ed25519PrivateKey) -> OperatorKey:
    return OperatorKey(name, role, key.public_key().public_bytes_raw())


_TREASURY_KEY: Final = _public("treasury", Role.TREASURY, TREASURY)
_OPERATOR_KEYS: Final = [
    _public(f"operator {number}", Role.OPERATOR, key) for number, key in enumerate(OPERATORS)
]
CONFIG: Final = ShardConfig(
    keys=(_OPERATOR_KEYS[0], _TREASURY_KEY), drained_per_command=2, open_orders_max=OPEN_ORDERS_MAX
)
"""What new shards begin with."""


def entry_ms(log: MemoryStreamLog, shard: int) -> int:
    """Return the next time of a shard's input: after Redis's clock was ahead, that of the last entry."""
    return max(log.now_ms(), log.last_id(streams.commands(shard)).ms)


def by_treasury(shard: int, command: Deposit | Withdraw, now: int) -> Signed:
    """Return a transfer with the treasury's signature."""
    return sign(TREASURY, "treasury", shard, TimeMs(now + SIGNED_MS), command)


class Operator:
    """Says things to shards; `state_of` returns that of a shard as it was last committed."""

    def __init__(
        self, surroundings: Surroundings, log: MemoryStreamLog, state_of: Callable[[int], ShardState]
    ) -> None:
        self._surroundings = surroundings
        self._log = log
        self._state_of = state_of
        self._count = 0
        self._said: set[tuple[object, ...]] = set()
        """What was signed, as events tell it."""

    def act(self, shard: int, dice: Dice) -> None:
        """Send one instruction that is signed as its shard requires."""
        instruction, role, body = self._body(self._state_of(shard), shard, dice)
        self._note(body)
        self._surroundings.inject(f"operator: {instruction}")
        self._sign(shard, role, body)

    def _sign(self, shard: int, role: Role, body: SignedBody) -> None:
        number = next(
            (number for number, key in enumerate(_OPERATOR_KEYS) if key in self._config(shard).keys), 0
        )
        private, name = (
            (TREASURY, "treasury") if role is Role.TREASURY else (OPERATORS[number], f"operator {number}")
        )
        self._append(shard, sign(private, name, shard, self._deadline(shard), body))

    def switch(self, shards: Iterable[int], readers: Sequence[Reader], *, asks: bool) -> bool:
        """Switch the shards to what the next release brings, as `exchange formats switch` does.

        Return whether it was ordered.

        One who does not ask (`asks`) orders it whatever the processes read.
        """
        planned = switching.plan_switch({shard: self._config(shard) for shard in shards}, readers)
        if asks and planned.lacking:
            self._surroundings.inject("switch refused: not every process reads it")
            return False
        for shard in planned.shards:
            self._count += 1
            config = switching.switched(self._config(shard), NEXT if not asks else planned.newest)
            body = ConfigureShard(self._count, "operator", config)
            self._note(body)
            self._sign(shard, Role.OPERATOR, body)
        if planned.shards:
            self._surroundings.inject(f"operator: switch{'' if asks else ' without asking'}")
        return bool(planned.shards)

    def forge(self, shard: int, dice: Dice) -> None:
        """Send one instruction that its shard must refuse."""
        instruction, role, body = self._body(self._state_of(shard), shard, dice)
        if isinstance(body, Deposit):
            body = msgspec.structs.replace(body, transfer_id=f"forged {body.transfer_id}")
        command: LoggedCommand
        private, name = (TREASURY, "treasury") if role is Role.TREASURY else (OPERATORS[0], "operator 0")
        match dice.below(6):
            case 0:
                how, command = "unsigned", body
            case 1:
                how, command = "stranger", sign(STRANGER, name, shard, self._deadline(shard), body)
            case 2:
                wrong = (OPERATORS[0], "operator 0") if role is Role.TREASURY else (TREASURY, "treasury")
                how, command = "other role", sign(*wrong, shard, self._deadline(shard), body)
            case 3:
                how, command = "other shard", sign(private, name, shard + 1, self._deadline(shard), body)
            case 4:
                how, command = "too late", sign(private, name, shard, TimeMs(self._log.now_ms() - 1), body)
            case _:
                true = sign(private, name, shard, self._deadline(shard), body)
                changed_body = msgspec.structs.replace(body, request_id=body.request_id + 1)
                how, command = (
                    "changed",
                    msgspec.structs.replace(true, command=msgspec.msgpack.encode(changed_body)),
                )
        self._surroundings.inject(f"forged: {how} {instruction}")
        self._append(shard, command)

    def check(self, happened: Iterable[Event], *, is_one_shard: bool) -> None:
        """Refuse what the shards tell that nobody who may say so has said, or that was forbidden.

        Raises:
            Violation: there is such a thing.
        """
        closed: dict[str, MarketStatus] = {}
        frozen: set[int] = set()
        for event in happened:
            for told in _told(event):
                if told not in self._said:
                    raise Violation(f"nobody has signed {told}")
            match event:
                case MarketConfigured(config=config):
                    closed[config.market.symbol] = config.status
                case TradeExecuted(market=market) if closed[market] is not MarketStatus.TRADING:
                    raise Violation(f"{market} is {closed[market].name}, and trades")
                case AccountLimited(account_id=account_id, limits=limits):
                    (frozen.add if limits.is_frozen else frozen.discard)(account_id)
                case OrderAccepted(order=order) if is_one_shard and order.account_id in frozen:
                    # With several, it may have been on its way before.
                    raise Violation(
                        f"account {order.account_id} is frozen, and its order {order.order_id} accepted"
                    )
                case _:
                    pass

    def _append(self, shard: int, command: LoggedCommand) -> None:
        frame = encode_commands([command], self._surroundings.now * 1_000)
        self._log.append(streams.commands(shard), {COMMANDS_FIELD: frame})

    def _deadline(self, shard: int) -> TimeMs:
        return TimeMs(entry_ms(self._log, shard) + SIGNED_MS)

    def _config(self, shard: int) -> ShardConfig:
        return self._state_of(shard).config or CONFIG

    def _note(self, body: SignedBody) -> None:
        match body:
            case ConfigureMarket(config=config):
                self._said.add(("market", config))
                gone = msgspec.structs.replace(
                    config, status=MarketStatus.DELISTED, version=config.version + 1
                )
                if config.status is MarketStatus.DELISTING:
                    self._said.add(("market", gone))
            case ConfigureShard(config=shard_config):
                self._said.add(("shard", shard_config))
            case LimitAccount(account_id=account_id, limits=limits):
                self._said.add(("limits", account_id, limits))
            case WithdrawFees(transfer_id=transfer_id):
                self._said.add(("fees", transfer_id))
            case Deposit(account_id=account_id, transfer_id=transfer_id):
                self._said.add(("deposit", account_id, transfer_id))
            case _:
                pass

    def _body(self, state: ShardState, shard: int, dice: Dice) -> tuple[str, Role, SignedBody]:
        self._count += 1
        request = (self._count, "operator")
        choice = dice.below(13)
        own = [config for config in state.market_configs.values() if config.shard == shard]
        accounts = [
            n + 1 for n in range(CLIENTS) if state.market_map.shard_of_account(AccountId(n + 1)) == shard
        ]
        account_id = AccountId(accounts[dice.below(len(accounts))]) if accounts else AccountId(2_520 + shard)
        config = state.config or CONFIG
        next_config = msgspec.structs.replace(config, version=config.version + 1)
        if choice < 6 and own:
            current = own[dice.below(len(own))]
            new = msgspec.structs.replace(current, version=current.version + 1)
            if choice == 0:
                fees = {"maker_fee_ppm": dice.below(50_000), "taker_fee_ppm": dice.below(50_000)}
                new = msgspec.structs.replace(new, market=msgspec.structs.replace(current.market, **fees))
                return "fees", Role.OPERATOR, ConfigureMarket(*request, new)
            statuses = (
                MarketStatus.HALTED,
                MarketStatus.CANCEL_ONLY,
                MarketStatus.DELISTING,
                MarketStatus.TRADING,
                MarketStatus.TRADING,
            )
            new = msgspec.structs.replace(new, status=statuses[choice - 1])
            return new.status.name.lower(), Role.OPERATOR, ConfigureMarket(*request, new)
        if choice == 6:
            since = state.time if config.maintenance_from == 0 else TimeMs(0)
            new_config = msgspec.structs.replace(next_config, maintenance_from=since)
            return "maintenance", Role.OPERATOR, ConfigureShard(*request, new_config)
        if choice == 7:
            keys = (_OPERATOR_KEYS[0 if _OPERATOR_KEYS[1] in config.keys else 1], _TREASURY_KEY)
            return (
                "key rotation",
                Role.OPERATOR,
                ConfigureShard(*request, msgspec.structs.replace(next_config, keys=keys)),
            )
        if choice == 8:
            account = state.accounts.get(account_id)
            version = account.limits.version if account is not None and account.limits is not None else 0
            limits = AccountLimits(version + 1, dice.below(3) == 0, dice.below(3) * 3, dice.below(3) * 2)
            return "limits", Role.OPERATOR, LimitAccount(*request, account_id, limits)
        if choice == 9:
            return "cancels of an account", Role.OPERATOR, CancelOrders(*request, account_id)
        if choice == 10 and own:
            symbol = own[dice.below(len(own))].market.symbol
            return "cancels of a market", Role.OPERATOR, CancelOrders(*request, AccountId(0), symbol)
        if choice == 11:
            asset = sorted(state.totals)[dice.below(len(state.totals))] if state.totals else "OAK"
            amount = AssetUnits(1 + dice.below(5))
            return (
                "fees out",
                Role.TREASURY,
                WithdrawFees(*request, shard, asset, amount, f"fees {self._count}"),
            )
        return "closing", Role.OPERATOR, CloseAccount(*request, account_id)


def _told(event: Event) -> Iterable[tuple[object, ...]]:
    """Return what an event tells that somebody must have signed.

    First configurations and clients' transfers are not looked at.
    """
    match event:
        case MarketConfigured(config=config) if config.version > 1:
            yield ("market", config)
        case ShardConfigured(config=shard_config) if shard_config.version > 1:
            yield ("shard", shard_config)
        case AccountLimited(account_id=account_id, limits=limits):
            yield ("limits", account_id, limits)
        case FeesWithdrawn(transfer_id=transfer_id):
            yield ("fees", transfer_id)
        case FundsDeposited(account_id=account_id, transfer_id=transfer_id) if transfer_id.startswith(
            "forged"
        ):
            yield ("deposit", account_id, transfer_id)
        case _:
            pass
