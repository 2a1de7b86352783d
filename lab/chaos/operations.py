"""An operator's actions on a running exchange under load: each is repeated until it has succeeded."""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.inquiries import connect
from cli.market_configs import apply, by_symbol, known_configs, with_status
from cli.operating import OperatingError, Operator, rotate_key
from lab.chaos.evidence import Evidence, Outcome, SentDeposit
from lab.chaos.trading import Trading
from protocol import streams
from protocol.codec import encode_commands
from protocol.commands import (
    CancelOrders,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    LimitAccount,
    SignedBody,
    Withdraw,
)
from protocol.configuration import AccountLimits, MarketConfig, MarketStatus, Role
from protocol.market import Market, MarketMap
from protocol.replies import Reply
from protocol.signing import sign
from protocol.streams import COMMANDS_FIELD
from protocol.units import UNITS_PER_ASSET, AccountId, AssetUnits, TimeMs
from runtime.settings import Settings

AGAIN_S: Final = 0.3
"""Pause before an operation is tried again."""
LASTS_S: Final = (0.1, 0.5)
"""How long a market stays closed, an account frozen, the exchange under maintenance."""
GIVE_UP_S: Final = 120.0
LOOK_EVERY_S: Final = 0.02
_MODEL: Final = "SOLUSDT"
"""The market that new ones are made like."""


class OperationKind(StrEnum):
    """The operator commands of a run."""

    CONFIGURE = "configure"
    """A market gets other fees."""
    LIST = "list"
    DELIST = "delist"
    """A market that was listed in this run, with what rests there."""
    HALT = "halt"
    """A market stands still for a moment."""
    CANCEL_MARKET = "cancel market"
    """A market takes only cancels for a moment, and all its orders are canceled."""
    FREEZE = "freeze"
    """An account is frozen for a moment, and its orders are canceled."""
    LIMIT = "limit"
    """An account gets limits, and loses them again."""
    MAINTENANCE = "maintenance"
    """The exchange takes only cancels for a moment."""
    ROTATE = "rotate"
    """The operator, or the treasury, gets another key."""
    TRANSFER = "transfer"
    """The treasury credits an account and debits it, each given twice."""
    FORGE = "forge"
    """Somebody who can write to the shards' input, and has no key, says all of this."""


class Operation(NamedTuple):
    """One of them, due when `share` of the orders have their answer."""

    share: float
    kind: OperationKind
    draw: int


def draw_operations(seed: int, count: int) -> list[Operation]:
    """Return `each` operations of each kind, in order; no market is delisted before one is listed."""
    dice = random.Random(seed + 2)
    operations = [
        Operation(dice.uniform(0.02, 0.95), kind, dice.randrange(2**30))
        for kind in OperationKind
        for _ in range(count)
    ]
    return sorted(operations)


class Operations:
    """Carries out an operator's commands, one after the other, when their share of the orders is answered."""

    def __init__(self, settings: Settings, evidence: Evidence, plan: Sequence[Operation]) -> None:
        self._settings = settings
        self._evidence = evidence
        self._plan = plan
        self._listed: list[str] = []
        self._number = 0
        self.trading: Trading | None = None
        """Who trades in new markets."""
        self.done: Counter[OperationKind] = Counter()
        self.retries = 0
        self.is_over = not plan

    async def run(self, progress: Callable[[], float]) -> None:
        """Carry the plan out; `progress` is the share of the orders that have their answer."""
        waiting = list(self._plan)
        while waiting:
            due = [operation for operation in waiting if operation.share <= progress()]
            possible = [
                operation for operation in due if operation.kind is not OperationKind.DELIST or self._listed
            ]
            if not possible:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            waiting.remove(possible[0])
            await asyncio.to_thread(self._carry_out, possible[0])
            self.done[possible[0].kind] += 1
        self.is_over = True

    def _carry_out(self, operation: Operation) -> None:
        dice = random.Random(operation.draw)
        match operation.kind:
            case OperationKind.CONFIGURE:
                self._set_fees(dice)
            case OperationKind.LIST:
                self._list(dice)
            case OperationKind.DELIST:
                self._delist(dice)
            case OperationKind.HALT:
                self._close_for_a_moment(dice, MarketStatus.HALTED)
            case OperationKind.CANCEL_MARKET:
                self._close_for_a_moment(dice, MarketStatus.CANCEL_ONLY)
            case OperationKind.FREEZE:
                self._freeze(dice)
            case OperationKind.LIMIT:
                self._limit(dice)
            case OperationKind.MAINTENANCE:
                self._maintain(dice)
            case OperationKind.ROTATE:
                role = dice.choice((Role.OPERATOR, Role.TREASURY))
                self._until_done(lambda: self._with_operator(lambda operator: rotate_key(operator, role)))
            case OperationKind.TRANSFER:
                self._transfer(dice)
            case OperationKind.FORGE:
                self._until_done(lambda: self._forge(dice))

    # ------------------------------------------------------------------ markets

    def _set_fees(self, dice: random.Random) -> None:
        symbol = dice.choice(sorted(self._evidence.markets.by_symbol.keys() - self._evidence.delisted))
        maker, taker = dice.randrange(0, 3_000), dice.randrange(0, 3_000)

        def configured(config: MarketConfig) -> MarketConfig:
            market = msgspec.structs.replace(config.market, maker_fee_ppm=maker, taker_fee_ppm=taker)
            return msgspec.structs.replace(config, market=market)

        self._configure(symbol, configured)

    def _list(self, dice: random.Random) -> None:
        self._number += 1
        market = msgspec.structs.replace(
            self._evidence.markets.by_symbol[_MODEL], symbol=f"LISTED{self._number}"
        )
        shard = dice.randrange(self._settings.shard_count)
        self._until_done(lambda: self._ensure(market.symbol, MarketConfig(market, shard)))
        self._trade_in(market, shard)
        self._listed.append(market.symbol)

    def _trade_in(self, market: Market, shard: int) -> None:
        """Let the accounts trade in it, and the verdict look at it."""
        markets = self._evidence.markets
        placed = [
            (listed_market, markets.shard_of_market(listed_market.symbol))
            for listed_market in markets.markets
        ]
        self._evidence.markets = MarketMap.placed([*placed, (market, shard)], markets.shard_count)
        if self.trading is not None:
            self.trading.list_market(market)

    def _delist(self, dice: random.Random) -> None:
        symbol = self._listed.pop(dice.randrange(len(self._listed)))
        self._set_status(symbol, MarketStatus.DELISTING)
        self._evidence.delisted.add(symbol)
        if self.trading is not None:
            self.trading.delist_market(symbol)

    def _close_for_a_moment(self, dice: random.Random, status: MarketStatus) -> None:
        symbol = dice.choice(sorted(self._evidence.markets.by_symbol.keys() - self._evidence.delisted))
        self._set_status(symbol, status)
        if status is MarketStatus.CANCEL_ONLY:
            shard = self._evidence.markets.shard_of_market(symbol)
            self._tell(shard, lambda number, name: CancelOrders(number, name, AccountId(0), symbol))
        time.sleep(dice.uniform(*LASTS_S))
        self._set_status(symbol, MarketStatus.TRADING)

    def _set_status(self, symbol: str, status: MarketStatus) -> None:
        self._configure(symbol, lambda config: msgspec.structs.replace(config, status=status))

    def _configure(self, symbol: str, change: Callable[[MarketConfig], MarketConfig]) -> None:
        self._until_done(lambda: self._ensure(symbol, change=change))

    def _ensure(
        self,
        symbol: str,
        new: MarketConfig | None = None,
        change: Callable[[MarketConfig], MarketConfig] = lambda config: config,
    ) -> None:
        """Let a market be configured so; it may be already, by an attempt whose answer was lost."""
        with connect(self._settings) as client:
            current = by_symbol(known_configs(client, range(self._settings.shard_count)).values()).get(symbol)
            if current is None:
                if new is None:
                    raise OperatingError(f"the shard of {symbol} does not answer")
                apply(client, self._settings, new)
                return
            new_config = change(current)
            is_gone = new_config.status is MarketStatus.DELISTING and current.status is MarketStatus.DELISTED
            if new_config != current and not is_gone:
                apply(client, self._settings, with_status(new_config, new_config.status))

    # ------------------------------------------------------------------ accounts and the exchange

    def _freeze(self, dice: random.Random) -> None:
        account_id = AccountId(dice.choice(self._evidence.accounts))
        self._set_limits(account_id, is_frozen=True)
        self._until_done(
            lambda: self._with_operator(
                lambda operator: operator.tell(
                    operator.shard_of(account_id),
                    Role.OPERATOR,
                    lambda number, name: CancelOrders(number, name, account_id),
                    "cancel orders",
                )
            )
        )
        time.sleep(dice.uniform(*LASTS_S))
        self._set_limits(account_id, is_frozen=False)

    def _limit(self, dice: random.Random) -> None:
        account_id = AccountId(dice.choice(self._evidence.accounts))
        self._set_limits(
            account_id, open_orders_max=dice.randrange(1, 20), orders_10s_max=dice.randrange(1, 50)
        )
        time.sleep(dice.uniform(*LASTS_S))
        self._set_limits(account_id, open_orders_max=0, orders_10s_max=0)

    def _set_limits(self, account_id: AccountId, **limits: int) -> None:
        def ensure(operator: Operator) -> None:
            current = operator.funds(account_id).limits
            new_limits = msgspec.structs.replace(current or AccountLimits(1), **limits)
            if new_limits == current:
                return
            if current is not None:
                new_limits = msgspec.structs.replace(new_limits, version=current.version + 1)
            operator.tell(
                operator.shard_of(account_id),
                Role.OPERATOR,
                lambda number, name: LimitAccount(number, name, account_id, new_limits),
                "limit an account",
            )

        self._until_done(lambda: self._with_operator(ensure))

    def _maintain(self, dice: random.Random) -> None:
        self._set_maintenance(TimeMs(time.time_ns() // 1_000_000))
        time.sleep(dice.uniform(*LASTS_S))
        self._set_maintenance(TimeMs(0))

    def _set_maintenance(self, since: TimeMs) -> None:
        def ensure(operator: Operator) -> None:
            for shard, current in operator.configs.items():
                if current.maintenance_from != since:
                    config = msgspec.structs.replace(
                        current, maintenance_from=since, version=current.version + 1
                    )

                    def command(number: int, name: str, config: object = config) -> ConfigureShard:
                        return ConfigureShard(number, name, config)  # type: ignore[arg-type]

                    operator.tell(shard, Role.OPERATOR, command, "set the maintenance")

        self._until_done(lambda: self._with_operator(ensure))

    def _transfer(self, dice: random.Random) -> None:
        account_id = AccountId(dice.choice(self._evidence.accounts))
        amount = AssetUnits(dice.randrange(2, 1_000) * UNITS_PER_ASSET)
        name_of_transfer = secrets.token_hex(8)
        for kind, moved in ((Deposit, amount), (Withdraw, AssetUnits(1))):
            for _ in range(2):
                self._until_done(
                    lambda kind=kind, moved=moved: self._with_operator(  # type: ignore[misc]
                        lambda operator: operator.tell(
                            operator.shard_of(account_id),
                            Role.TREASURY,
                            lambda number, name: kind(
                                number, name, account_id, "USDT", moved, name_of_transfer
                            ),
                            "move money",
                        )
                    )
                )
            sign_of = 1 if kind is Deposit else -1
            self._evidence.deposits.append(
                SentDeposit(account_id, "USDT", sign_of * moved, Outcome.ACKNOWLEDGED)
            )

    # ------------------------------------------------------------------ forgeries

    def _forge(self, dice: random.Random) -> None:
        """Write what needs a signature without one, and with a stranger's."""
        account_id = AccountId(dice.choice(self._evidence.accounts))
        config = MarketConfig(self._evidence.markets.by_symbol[_MODEL], 0, MarketStatus.HALTED, 1_000)
        bodies: list[tuple[int, SignedBody]] = [
            (
                self._evidence.markets.shard_of_account(account_id),
                Deposit(1, "forger", account_id, "USDT", AssetUnits(10**14), secrets.token_hex(8)),
            ),
            (
                self._evidence.markets.shard_of_account(account_id),
                LimitAccount(2, "forger", account_id, AccountLimits(1, is_frozen=True)),
            ),
            (self._evidence.markets.shard_of_market(_MODEL), ConfigureMarket(3, "forger", config)),
        ]
        stranger = Ed25519PrivateKey.generate()
        with connect(self._settings) as client:
            for shard, body in bodies:
                now_us = time.time_ns() // 1_000
                signed = sign(stranger, "operator", shard, TimeMs(now_us // 1_000 + 10_000), body)
                client.xadd(
                    streams.commands(shard), {COMMANDS_FIELD: encode_commands([body, signed], now_us)}
                )

    # ------------------------------------------------------------------ repeated until they succeed

    def _tell(self, shard: int, command: Callable[[int, str], SignedBody]) -> None:
        self._until_done(
            lambda: self._with_operator(
                lambda operator: operator.tell(shard, Role.OPERATOR, command, "do it")
            )
        )

    def _with_operator(self, work: Callable[[Operator], Reply | str | None]) -> None:
        with connect(self._settings) as client:
            work(Operator(client, self._settings))

    def _until_done(self, attempt: Callable[[], object]) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                attempt()
            except (OperatingError, redis.RedisError):
                if time.monotonic() > deadline:
                    raise
                self.retries += 1
                time.sleep(AGAIN_S)
            else:
                return
