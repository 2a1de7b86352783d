"""What is rare in a compiled shard: the object core's parts, on views of the compiled records.

A `Parts` is a `Shard` whose state keeps accounts, books and money in the records of a `FastCore`. What is
frequent never comes by here. A view holds no data of its own, and what it returns is a copy.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from typing_extensions import override

from engine_worker.core import conservation as audit
from engine_worker.core import frames, journal, snapshot
from engine_worker.core.accounts import Account, AssetTotals, Funds, OrderCounts, PlacedOrder
from engine_worker.core.authority import ROLES
from engine_worker.core.configuration import Configuration
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.messages import Messages
from engine_worker.core.operator_cancels import OperatorCancels
from engine_worker.core.operator_commands import OperatorCommands
from engine_worker.core.outcomes import (
    KeyedCommand,
    KeyedRequests,
    Transfer,
    transfer_key,
)
from engine_worker.core.replies import DROPS_PER_COMMAND, Replies
from engine_worker.core.shard import Shard
from engine_worker.core.shard_state import CancelAllRequest, ShardState
from engine_worker.core.snapshot import VERSIONS, AccountSnapshot, CancelAllSnapshot
from engine_worker.core.transfers import FundsTransfers
from engine_worker.frame_core import DeadItem
from protocol.codec import encode_as, encode_frame
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
    LoggedCommand,
    MakerFill,
    MatchOrder,
    PlaceOrder,
    RestingClosed,
    ShardMessage,
    Signed,
    SignedBody,
    TakerOutcome,
    Tick,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import AccountLimits, MarketConfig, MarketStatus
from protocol.decoding import msgpack_decoder
from protocol.events import AccountLimited, EntrySkipped, Event, StateHashed
from protocol.market import Market, MarketMap
from protocol.orders import (
    Balance,
    CloseReason,
    OrderState,
    RejectReason,
    Side,
    are_supported,
)
from protocol.replies import Configured, FundsReply, OrdersReply, Reply
from protocol.stream_id import StreamId
from protocol.units import AccountId, AssetUnits, OrderId, TimeMs
from protocol.windows import DEFAULT_WINDOWS, Windows

if TYPE_CHECKING:
    from engine_worker.core_fast._core import FastCore

DIGEST_BYTES: Final = 32
decode_order: Final = msgpack_decoder(OrderState)
_decode_reply: Callable[[bytes], Reply] = msgpack_decoder(Reply)  # type: ignore[arg-type]  # a union
_FREQUENT_COMMANDS: Final = frozenset((PlaceOrder, CancelOrder, Tick))
_FREQUENT_MESSAGES: Final = frozenset(
    (MatchOrder, CancelResting, TakerOutcome, MakerFill, RestingClosed, CancelMissed)
)
_decode_account: Final = msgpack_decoder(AccountSnapshot)
_CONFIGURING: Final = frozenset((Signed, ConfigureShard, ConfigureMarket))
_decode_commands: Final = msgpack_decoder(list[LoggedCommand])
_TO_MARKET: Final = frozenset((MatchOrder, CancelResting))


def _array_head(count: int) -> bytes:
    """Return the head of an array, in its longest form."""
    return b"\xdd" + count.to_bytes(4, "big")


class FundsView(Funds):
    """An account's money in one asset."""

    __slots__ = ("_account_id", "_asset", "_core")

    def __init__(self, core: "FastCore", account_id: AccountId, asset: str) -> None:
        self._core, self._account_id, self._asset = core, account_id, asset

    @property
    def available(self) -> int:  # type: ignore[override]  # an attribute of the object core's
        """What can be used."""
        return self._core.funds_of(self._account_id)[self._asset][0]

    @property
    def held(self) -> int:  # type: ignore[override]  # likewise
        """What open orders hold."""
        return self._core.funds_of(self._account_id)[self._asset][1]


class AccountView(Account):
    """One account. Its idempotency keys and limits are Python objects, in the state."""

    __slots__ = ("_core", "_state")

    def __init__(self, core: "FastCore", state: "CompiledState", account_id: AccountId) -> None:
        self._core, self._state = core, state
        self.account_id = account_id

    @property
    def changed_time(self) -> TimeMs:  # type: ignore[override]
        """When the funds changed last."""
        return TimeMs(self._core.changed_time(self.account_id))

    @property
    def funds(self) -> dict[str, Funds]:  # type: ignore[override]
        """The funds, by asset."""
        found = self._core.funds_of(self.account_id)
        return {asset: FundsView(self._core, self.account_id, asset) for asset in found}

    @property
    def open_orders(self) -> dict[str, dict[OrderId, OrderState]]:  # type: ignore[override]
        """The open orders, by market."""
        return {
            market: {order.order_id: order for order in map(decode_order, orders)}
            for market, orders in self._core.open_orders_of(self.account_id).items()
        }

    @property
    def client_order_ids(self) -> Mapping[str, PlacedOrder]:  # type: ignore[override]
        """As many as there are, of which nobody asks more than their number."""
        nobody = PlacedOrder(OrderId(0), 0, "")
        return {str(number): nobody for number in range(self._core.order_count_of(self.account_id))}

    @property
    def keyed(self) -> KeyedRequests | None:
        """The idempotency keys, if there are any."""
        return self._state.keyed.get(self.account_id)

    @keyed.setter
    def keyed(self, keyed: KeyedRequests | None) -> None:
        if keyed is None:
            self._state.keyed.pop(self.account_id, None)
        else:
            self._state.keyed[self.account_id] = keyed

    @property
    def limits(self) -> AccountLimits | None:  # type: ignore[override]
        """What an operator has set, if anything."""
        found = self._state.limits.get(self.account_id)
        return found[0] if found is not None else None

    @property
    def order_counts(self) -> OrderCounts | None:  # type: ignore[override]
        """The orders counted for the limits."""
        found = self._state.limits.get(self.account_id)
        return found[1] if found is not None else None

    def set_limits(self, limits: AccountLimits, order_counts: OrderCounts) -> None:
        """Limit the account from now on."""
        self._state.limits[self.account_id] = (limits, order_counts)
        self._core.set_has_limits(self.account_id, True)


class AccountsView(dict[AccountId, Account]):
    """The accounts by number; as a dict it is empty."""

    def __init__(self, core: "FastCore", state: "CompiledState") -> None:
        super().__init__()
        self._core, self._state = core, state

    @override
    def get(self, account_id: AccountId, default: Any = None) -> Any:
        if not self._core.has_account(account_id):
            return default
        return AccountView(self._core, self._state, account_id)

    @override
    def __getitem__(self, account_id: AccountId) -> AccountView:
        if not self._core.has_account(account_id):
            raise KeyError(account_id)
        return AccountView(self._core, self._state, account_id)

    @override
    def __delitem__(self, account_id: AccountId) -> None:
        self._core.remove_account(account_id)
        self._state.keyed.pop(account_id, None)
        self._state.limits.pop(account_id, None)

    @override
    def __len__(self) -> int:
        return self._core.count("accounts")

    def __bool__(self) -> bool:
        return len(self) > 0

    def opened(self, account_id: AccountId) -> AccountView:
        """Return an account, which may be new."""
        if not self._core.has_account(account_id):
            self._core.add_account(account_id, self._state.time)
        return AccountView(self._core, self._state, account_id)


class TotalsView(AssetTotals):
    """What the shard knows of one asset beyond its accounts' funds."""

    __slots__ = ("_asset", "_core")

    def __init__(self, core: "FastCore", asset: str) -> None:
        self._core, self._asset = core, asset

    def _get(self, place: int) -> int:
        return self._core.totals_of(self._asset)[place]

    def _set(self, place: int, amount: int) -> None:
        totals = list(self._core.totals_of(self._asset))
        totals[place] = amount
        self._core.set_totals(self._asset, *totals)

    fees = property(lambda self: self._get(0), lambda self, amount: self._set(0, amount))
    deposited = property(lambda self: self._get(1), lambda self, amount: self._set(1, amount))
    withdrawn = property(lambda self: self._get(2), lambda self, amount: self._set(2, amount))
    settled = property(lambda self: self._get(3), lambda self, amount: self._set(3, amount))
    funds = property(lambda self: self._get(4), lambda self, amount: self._set(4, amount))
    held = property(lambda self: self._get(5), lambda self, amount: self._set(5, amount))


class _Totals(dict[str, AssetTotals]):
    def __init__(self, core: "FastCore") -> None:
        super().__init__()
        self._core = core

    @override
    def __setitem__(self, asset: str, totals: AssetTotals) -> None:
        self._core.add_asset(asset)
        super().__setitem__(asset, TotalsView(self._core, asset))


class _BestLevel:
    def __init__(self, price: int, quantity: int, order_count: int) -> None:
        self.price, self.quantity, self.order_count = price, quantity, order_count


class _SideView:
    def __init__(self, core: "FastCore", symbol: str, side: Side) -> None:
        self._core, self._symbol, self._side = core, symbol, side

    @property
    def best(self) -> _BestLevel | None:
        found = self._core.best_level(self._symbol, self._side)
        return _BestLevel(*found) if found is not None else None


class _OrdersView:
    def __init__(self, core: "FastCore", symbol: str) -> None:
        self._core, self._symbol = core, symbol

    def __len__(self) -> int:
        return self._core.market_numbers(self._symbol)[5]


class _BookView:
    def __init__(self, core: "FastCore", symbol: str) -> None:
        self.bids, self.asks = (_SideView(core, symbol, side) for side in (Side.BUY, Side.SELL))
        self.orders = _OrdersView(core, symbol)


class MarketView:
    """One market of the shard: what the parts ask a `MarketState` for."""

    def __init__(self, core: "FastCore", market: Market) -> None:
        self._core = core
        self.market = market
        self.book = _BookView(core, market.symbol)

    last_price = property(lambda self: self._core.market_numbers(self.market.symbol)[0])
    sequence = property(lambda self: self._core.market_numbers(self.market.symbol)[1])
    trade_id = property(lambda self: self._core.market_numbers(self.market.symbol)[2])
    aggregate_id = property(lambda self: self._core.market_numbers(self.market.symbol)[3])
    prevented_id = property(lambda self: self._core.market_numbers(self.market.symbol)[4])

    def drain(self, orders_max: int, reason: CloseReason, _: TimeMs, __: object) -> list[RestingClosed]:
        """Take up to `orders_max` orders out of the book, as `MarketState.drain` does."""
        symbol = self.market.symbol
        return [
            RestingClosed(OrderId(order_id), AccountId(account_id), symbol, reason=reason)
            for order_id, account_id in self._core.drain_market(symbol, orders_max)
        ]


class _Markets(dict[str, Any]):
    def __init__(self, core: "FastCore") -> None:
        super().__init__()
        self._core = core

    @override
    def __setitem__(self, symbol: str, state: Any) -> None:
        super().__setitem__(symbol, MarketView(self._core, state.market))


class _Events(list[Event]):
    """Events go to the core as bytes; as a list it is empty."""

    def __init__(self, core: "FastCore") -> None:
        super().__init__()
        self._core = core

    @override
    def append(self, event: Event) -> None:
        self._core.write_event(encode_frame(event))


class _Replies(list[tuple[str, Reply]]):
    """Replies that are not remembered; as a list it is empty."""

    def __init__(self, core: "FastCore") -> None:
        super().__init__()
        self._core = core

    @override
    def append(self, answer: tuple[str, Reply]) -> None:
        self._core.add_reply(answer[0], encode_frame(answer[1]))


class _Received(dict[int, int]):
    """Source shard -> the number of its last message; a copy that writes through."""

    def __init__(self, core: "FastCore") -> None:
        super().__init__(core.numbers_received())
        self._core = core

    @override
    def __setitem__(self, source: int, sequence: int) -> None:
        super().__setitem__(source, sequence)
        self._core.set_received(source, sequence)


class CompiledState(ShardState):
    """The state as the parts see it."""

    __slots__ = ("_core", "keyed", "limits")

    def __init__(self, core: "FastCore", index: int, shard_count: int) -> None:
        self._core = core
        super().__init__(index, MarketMap.placed([], shard_count), DEFAULT_WINDOWS)
        self.keyed: dict[AccountId, KeyedRequests] = {}
        """The idempotency keys of the accounts that have some."""
        self.limits: dict[AccountId, tuple[AccountLimits, OrderCounts]] = {}
        self.accounts = AccountsView(core, self)
        self.totals = _Totals(core)
        self.markets = _Markets(core)
        self.events = _Events(core)
        self.replies = _Replies(core)

    @property
    def time(self) -> TimeMs:
        """The shard's time."""
        return TimeMs(self._core.time)

    @time.setter
    def time(self, time: TimeMs) -> None:
        self._core.set_counts(time=time)

    @property
    def entered(self) -> TimeMs:
        """When the entry that is applied was appended."""
        return TimeMs(self._core.count("entered"))

    @entered.setter
    def entered(self, entered: TimeMs) -> None:
        self._core.set_counts(entered=entered)

    @property
    def command_count(self) -> int:
        """How many commands were applied."""
        return self._core.command_count

    @command_count.setter
    def command_count(self, count: int) -> None:
        self._core.set_counts(command_count=count)

    @property
    def order_count(self) -> int:
        """How many orders were numbered."""
        return self._core.order_count

    @order_count.setter
    def order_count(self, count: int) -> None:
        self._core.set_counts(order_count=count)

    @property
    def execution_count(self) -> int:
        """How many executions were numbered."""
        return self._core.count("execution_count")

    @execution_count.setter
    def execution_count(self, count: int) -> None:
        self._core.set_counts(execution_count=count)

    @property
    def open_order_count(self) -> int:
        """How many orders are open."""
        return self._core.count("open_order_count")

    @open_order_count.setter
    def open_order_count(self, count: int) -> None:
        assert count == 0, "the core counts"

    @property
    def checksum(self) -> int:
        """The checksum of the events."""
        return self._core.checksum

    @checksum.setter
    def checksum(self, checksum: int) -> None:
        self._core.set_counts(checksum=checksum)

    @property
    def received(self) -> dict[int, int]:
        """Source shard -> the number of its last message."""
        return _Received(self._core)

    @received.setter
    def received(self, received: dict[int, int]) -> None:
        for source, sequence in received.items():
            self._core.set_received(source, sequence)

    @property
    def sent(self) -> dict[int, int]:
        """Target shard -> the number of the last message to it."""
        return self._core.numbers_sent()

    @sent.setter
    def sent(self, sent: dict[int, int]) -> None:
        for target, sequence in sent.items():
            self._core.set_sent(target, sequence)

    @override
    def find_open(
        self, account_id: AccountId, market: str, order_id: OrderId, client_order_id: str
    ) -> OrderState | None:
        found = self._core.find_open(account_id, market, order_id, client_order_id)
        return decode_order(found) if found is not None else None


class CompiledMessages(Messages):
    """Messages between the halves: to this very shard, or into the outbox."""

    __slots__ = ("_core",)

    def __init__(self, core: "FastCore", state: CompiledState) -> None:
        super().__init__(state)
        self._core = core

    @override
    def send(self, target: int, message: ShardMessage) -> None:
        if target == self._index:
            self._core.apply_encoded(encode_frame(message), False, self._index)
        elif 0 <= target < self._state.shard_count:
            self._core.send_encoded(target, encode_frame(message))
        else:
            raise InvariantBroken(
                f"a {type(message).__name__} for shard {target} of {self._state.shard_count}"
            )


class CompiledReplies(Replies):
    """One outcome per request.

    The core remembers those of requests, Python objects those of idempotency keys.
    """

    __slots__ = ("_compiled", "_core")

    def __init__(self, core: "FastCore", state: CompiledState) -> None:
        super().__init__(state)
        self._core, self._compiled = core, state

    @override
    def apply_once(
        self, command: PlaceOrder | CancelOrder | CancelAllOrders | SignedBody, deadline_ms: int | None = None
    ) -> None:
        if deadline_ms is None:
            deadline_ms = command.deadline_ms  # type: ignore[union-attr]  # a client's command
        if not self._core.begin_request(command.reply_to, command.request_id):
            return
        if deadline_ms and deadline_ms < self._state.entered:
            self.refuse(command.reply_to, command.request_id, RejectReason.TOO_LATE)
        else:
            self.handlers[type(command)](command)
        self._core.end_request()

    @override
    def reply(self, reply_to: str, reply: Reply) -> None:
        self._core.reply(reply_to, reply.request_id, encode_frame(reply))

    @override
    def is_first_of_its_key(self, command: KeyedCommand) -> bool:
        state = self._compiled
        # It may have nothing: then it will be refused, and that is an outcome, too.
        state.accounts.opened(command.account_id)  # type: ignore[attr-defined]  # it is an `AccountsView`
        return super().is_first_of_its_key(command)

    def keep_encoded_outcome(self, account_id: AccountId, key: str, encoded: bytes) -> None:
        """Remember an outcome, which the core has written, under an idempotency key."""
        self.keep_outcome(account_id, key, _decode_reply(encoded))

    def forget_key(self, account_id: AccountId, key: str) -> None:
        """Forget that a request with a key was made: it may be made again (`refuse_for_now`)."""
        keyed = self._compiled.keyed.get(account_id)
        if keyed is not None:
            del keyed.under_way[key]
            if not keyed.under_way and not keyed.outcomes.oldest_first:
                del self._compiled.keyed[account_id]

    @override
    def set_windows(self, windows: Windows) -> None:
        state = self._compiled
        state.windows = windows
        state.transfers.window_ms = windows.transfer_ms
        for keyed in state.keyed.values():
            keyed.outcomes.window_ms = windows.key_ms
        # The shorter ones may be too old at once.
        self._core.set_counts(request_window_ms=windows.request_ms, outcomes_kept_until=-1)

    @override
    def drop_old_outcomes(self) -> int:  # type: ignore[override]
        """Drop a few that are too old; return up to when none of the rest is."""
        state, now = self._compiled, self._compiled.time
        windows, expiries = state.windows, state.key_expiries
        transfers = state.transfers.oldest_first
        if transfers and now - transfers[0].time > windows.transfer_ms:
            state.transfers.drop_old(now, DROPS_PER_COMMAND)
        for _ in range(DROPS_PER_COMMAND):
            if not expiries or now - expiries[0][0] <= windows.key_ms:
                break
            account_id = expiries.popleft()[1]
            keyed = state.keyed.get(account_id)
            if keyed is not None:  # the account may have been closed since
                keyed.outcomes.drop_old(now, 1)
                if not keyed.outcomes.oldest_first and not keyed.under_way:
                    del state.keyed[account_id]
        return min(
            (transfers[0].time if transfers else now) + windows.transfer_ms,
            (expiries[0][0] if expiries else now) + windows.key_ms,
        )


class CompiledTransfers(FundsTransfers):
    """Deposits and withdrawals."""

    __slots__ = ("_compiled", "_core")

    def __init__(self, core: "FastCore", state: CompiledState, replies: CompiledReplies) -> None:
        super().__init__(state, replies)
        self._core, self._compiled = core, state

    @override
    def transfer(self, command: Deposit | Withdraw) -> None:
        state, core = self._compiled, self._core
        if command.idempotency_key and not self._replies.is_first_of_its_key(command):
            return
        account_id, asset = command.account_id, command.asset
        key = transfer_key(type(command).__name__, account_id, command.transfer_id)
        first = state.transfers.find(key, state.time)
        reason = self._reason_not_to_repeat(command, first)
        if reason is None and first is None:
            reason = self._why_not(command)
        if reason is not None:
            self._replies.refuse_keyed(command, reason)
            return
        if first is None:
            state.transfers.remember(Transfer(key, state.time, asset, command.amount))
            is_deposit = isinstance(command, Deposit)
            if is_deposit and state.signer is not None:
                state.authority.count(state.signer, command, state.time)  # type: ignore[arg-type]  # a deposit
            core.move_funds(account_id, asset, command.amount, is_deposit, command.transfer_id)
        available, held = core.balance_of(account_id, asset)
        balances = (Balance(asset, AssetUnits(available), AssetUnits(held)),)
        reply = FundsReply(command.request_id, state.time, balances)
        self._replies.reply_keyed(account_id, command.idempotency_key, command.reply_to, reply)

    def _why_not(self, command: Deposit | Withdraw) -> RejectReason | None:
        """Return why a transfer that is no repetition is refused (`_reason_not_to_transfer`)."""
        state, core = self._compiled, self._core
        if command.amount <= 0:
            return RejectReason.AMOUNT_OUT_OF_RANGE
        if isinstance(command, Deposit):
            outstanding = core.outstanding(command.asset) + command.amount
            too_much = outstanding > state.market_map.supply_share(command.asset)
            return RejectReason.AMOUNT_OUT_OF_RANGE if too_much else None
        limits = state.limits.get(command.account_id)
        if limits is not None and limits[0].is_frozen:
            return RejectReason.ACCOUNT_FROZEN
        available, _ = core.balance_of(command.account_id, command.asset)
        return RejectReason.INSUFFICIENT_BALANCE if available < command.amount else None


class CompiledOperatorCommands(OperatorCommands):
    """The commands of operators."""

    __slots__ = ("_compiled",)

    def __init__(self, state: CompiledState, replies: CompiledReplies) -> None:
        super().__init__(state, replies)
        self._compiled = state

    @override
    def limit_account(self, command: LimitAccount) -> None:
        state, limits = self._compiled, command.limits
        account = state.accounts.get(command.account_id)
        known = account.limits if account is not None else None
        if limits.version != (known.version if known is not None else 0) + 1:
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.CONFIG_OUTDATED)
            return
        opened: AccountView = state.accounts.opened(command.account_id)  # type: ignore[attr-defined]
        opened.set_limits(limits, opened.order_counts or OrderCounts())
        state.events.append(AccountLimited(state.time, command.account_id, limits))
        self._replies.reply(command.reply_to, Configured(command.request_id, state.time, limits.version))


class _OneFormat:
    """The journal of a program that writes one format."""

    def switch_format(self) -> None:
        raise InvariantBroken("the compiled core writes one format only")


class Parts(Shard):
    """The shard as the rare commands, the queries and the snapshots see it."""

    __slots__ = ("_adopted", "_adopted_markets", "_core", "behind_frames")

    state: CompiledState
    replies: CompiledReplies

    def __init__(self, core: "FastCore", index: int, shard_count: int) -> None:
        self._core = core
        state = self.state = CompiledState(core, index, shard_count)
        messages = self.messages = CompiledMessages(core, state)
        replies = self.replies = CompiledReplies(core, state)
        configuration = self.configuration = Configuration(
            state,
            messages,
            replies,
            _OneFormat(),  # type: ignore[arg-type]
        )
        cancels = self.operator_cancels = OperatorCancels(state, messages, replies, configuration)
        operators = self.operator_commands = CompiledOperatorCommands(state, replies)
        transfers = self.funds_transfers = CompiledTransfers(core, state, replies)
        replies.handlers |= {
            CancelAllOrders: self._cancel_all_orders,
            Deposit: transfers.transfer,
            Withdraw: transfers.transfer,
            WithdrawFees: transfers.withdraw_fees,
            ConfigureShard: configuration.configure_shard,
            ConfigureMarket: configuration.configure_market,
            CloseAccount: operators.close_account,
            LimitAccount: operators.limit_account,
            CancelOrders: cancels.cancel_orders,
        }
        self._handlers: dict[type, Callable[[Any], None]] = {
            CancelAllOrders: replies.apply_once,
            Signed: operators.apply,
            **dict.fromkeys(ROLES, operators.apply),
            KnowMarket: configuration.know_market,
        }
        self.behind_frames = frames.ObjectCore(self)
        """Answers what is asked about the state, and decodes what is odd."""
        self._adopted: tuple[object, object] = (None, None)
        """The configuration and the markets that the core knows; both are replaced when they change."""
        self._adopted_markets: dict[str, MarketConfig] = {}
        core.set_counts(request_window_ms=state.windows.request_ms)
        self._adopt()

    @override
    def let_go(self) -> None:
        self._handlers.clear()
        self.replies.handlers.clear()
        for slot in ("state", "messages", "replies", "configuration", "behind_frames"):
            delattr(self, slot)

    def _adopt(self) -> None:
        """Let the core know the configuration, if it has changed."""
        state = self.state
        config, market_map = state.config, state.market_map
        if self._adopted[0] is config and self._adopted[1] is market_map:
            return
        self._adopted = (config, market_map)
        self._core.configure(state.slots, int(state.closed_from), state.open_orders_max, state.in_flight_max)
        for symbol, each in state.market_configs.items():
            if self._adopted_markets.get(symbol) is not each:
                self._adopted_markets[symbol] = each
                self._core.set_market(each.market, each.shard, each.status)

    def apply_slowly(
        self,
        stream_id: StreamId,
        fields: Mapping[bytes, bytes],
        progressed: Callable[[], None] | None = None,
    ) -> list[DeadItem]:
        """Apply an entry that is not of frequent items in their canonical form alone."""
        return self.behind_frames.apply_frame(stream_id, fields, progressed)

    def decoded(self, items: list[bytes]) -> list[LoggedCommand] | None:
        """Return the rarer commands of a frame, if this shard applies all of them and none configures."""
        try:
            commands = _decode_commands(b"".join((_array_head(len(items)), *items)))
        except msgspec.MsgspecError:
            return None
        state = self.state
        if any(type(each) in _CONFIGURING for each in commands):
            # What is behind it in its frame may mean something else then.
            return None
        if frames._refused(commands, state.index, state.market_map):
            return None
        # As `Shard.enter` does, of which the core does the rest.
        state.is_founding = state.config is None
        return commands

    @override
    def apply(self, command: LoggedCommand | ShardMessage, time: TimeMs) -> None:
        core, kind = self._core, type(command)
        core.begin_item(time)
        if isinstance(command, PlaceOrder):
            is_supported = command.terms is None or are_supported(command.terms)
            core.apply_encoded(encode_frame(command), True, -1, is_supported)
        elif kind in _FREQUENT_COMMANDS:
            core.apply_encoded(encode_frame(command), True, -1)
        elif kind in _FREQUENT_MESSAGES:
            core.apply_encoded(encode_frame(command), False, self._source_of(command))
        else:
            self._handlers[kind](command)
            self._adopt()
            core.set_counts(has_drains=bool(self.state.drains))
        core.end_item()

    def _source_of(self, message: Any) -> int:
        """Return which shard has sent a message, which was checked when it was read."""
        state = self.state
        if type(message) in _TO_MARKET:
            return state.market_map.shard_of_account(message.account_id)
        return state.market_map.shards[message.market]

    def drain(self) -> None:
        """Cancel some of the orders that are to be canceled."""
        self.operator_cancels.drain()
        self._adopt()
        self._core.set_counts(has_drains=bool(self.state.drains))

    @override
    def pass_over(self, skip: Any, source: int | None = None, last_sequence: int = 0) -> None:
        state = self.state
        state.command_count += 1
        if source is not None:
            received = state.received
            received[source] = max(received.get(source, 0), last_sequence)
        state.events.append(EntrySkipped(state.time, skip.stream_id, skip.operator, skip.reason))
        if state.command_count >= self._core.count("hash_due"):
            self.hash_state()

    def hash_state(self) -> None:
        """Append a `StateHashed`."""
        core, state = self._core, self.state
        core.set_counts(hash_due=core.count("hash_due") + journal.STATE_HASH_INTERVAL)
        # Before the digest, which covers the checksum of everything in front of it.
        core.checksum_events()
        state.events.append(StateHashed(state.time, state.command_count, audit.digest(state)))

    # Several cancels with one reply.

    def _cancel_all_orders(self, command: CancelAllOrders) -> None:
        """Ask a market to cancel all orders of an account; one reply tells of all."""
        state, core = self.state, self._core
        orders: list[bytes] = []
        if core.has_account(command.account_id):
            orders = core.open_orders_of(command.account_id, command.market).get(command.market, [])
        if not orders:
            self.replies.refuse(command.reply_to, command.request_id, RejectReason.UNKNOWN_ORDER)
            return
        if state.not_trading.get(command.market) is MarketStatus.HALTED:
            self.replies.refuse(command.reply_to, command.request_id, RejectReason.MARKET_CLOSED)
            return
        # Before the first message: a market of this very shard answers before `send` returns.
        state.cancel_alls[command.reply_to, command.request_id] = CancelAllRequest(len(orders))
        shard = state.market_map.shards[command.market]
        for order in map(decode_order, orders):
            self.messages.send(
                shard,
                CancelResting(
                    order.order_id, order.account_id, order.market, command.request_id, command.reply_to,
                    command.cancel_id,
                ),
            )  # fmt: skip

    def answer_one_of_several(self, reply_to: str, request_id: int, encoded: bytes) -> bool:
        """Count the answer to a cancel if it is one of several, and return whether it is.

        `encoded` is the order; empty when it was missed.
        """
        state = self.state
        request = state.cancel_alls.get((reply_to, request_id))
        if request is None:
            return False
        request.waiting -= 1
        assert request.waiting >= 0, "the last answer takes the request away"
        if encoded:
            request.orders.append(decode_order(encoded))
        if request.waiting:
            return True
        del state.cancel_alls[reply_to, request_id]
        if request.orders:
            self.replies.reply(reply_to, OrdersReply(request_id, state.time, tuple(request.orders)))
        else:
            self.replies.refuse(reply_to, request_id, RejectReason.UNKNOWN_ORDER)
        return True

    # Snapshots.

    def snapshot_body(self, stream_id: StreamId | None) -> bytes:
        """Return a `ShardSnapshot`, encoded."""
        state, core = self.state, self._core
        number = state.format
        rare: dict[int, tuple[bytes, bytes]] = {}
        for account_id in state.keyed.keys() | state.limits.keys():
            keyed, limits = state.keyed.get(account_id), state.limits.get(account_id)
            outcomes = keyed.outcomes.kept(state.time) if keyed is not None else []
            under_way = sorted(keyed.under_way.items(), key=lambda each: each[0]) if keyed is not None else []
            waiting = [(key, request.fingerprint, request.repeated_by) for key, request in under_way]
            rare[account_id] = (
                encode_frame(outcomes) + encode_frame(waiting),
                encode_frame(limits[0]) + encode_frame(limits[1]) if limits is not None else b"\xc0\xc0",
            )
        cancel_alls = [
            CancelAllSnapshot(request_id, reply_to, request.waiting, request.orders)
            for (reply_to, request_id), request in sorted(state.cancel_alls.items(), key=lambda each: each[0])
        ]
        parts: tuple[object, ...] = (
            VERSIONS[number],
            str(stream_id) if stream_id is not None else "",
            state.index,
            state.shard_count,
            state.order_count,
            state.command_count,
            [(asset, *totals.stored()) for asset, totals in sorted(state.totals.items())],
            msgspec.Raw(core.encoded_accounts(rare)),
            msgspec.Raw(core.encoded_markets()),
            msgspec.Raw(core.encoded_answers()),
            core.requests_under_way(),
            [each for each in state.key_expiries if state.time - each[0] <= state.windows.key_ms],
            cancel_alls,
            sorted(state.received.items()),
            sorted(state.sent.items()),
            state.checksum,
            state.time,
            state.config,
            [config for _, config in sorted(state.market_configs.items())],
            state.transfers.kept(state.time),
            state.execution_count,
            list(state.drains),
            sorted(state.authority.given.items()),
        )
        return encode_as(number, parts)

    def encode_snapshot(self, stream_id: StreamId | None) -> bytes:
        """Return the whole state, with a digest in front."""
        body = self.snapshot_body(stream_id)
        return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() + body

    def take_over(self, shard: Shard) -> None:
        """Take over the state of an object core's shard, which a snapshot described."""
        state, core, other = self.state, self._core, shard.state
        if other.config is not None:
            self.configuration.set_config(other.config)
        else:
            self.replies.set_windows(other.windows)
        state.slots = other.slots
        self.configuration.set_markets(list(other.market_configs.values()))
        self._adopt()
        state.authority.given = other.authority.given
        for asset, totals in other.totals.items():
            state.totals[asset] = totals
            core.set_totals(
                asset,
                totals.fees, totals.deposited, totals.withdrawn, totals.settled, totals.funds, totals.held,
            )  # fmt: skip
        for account_id, account in other.accounts.items():
            self._take_over_account(account_id, account)
        for symbol, market in other.markets.items():
            core.set_market_numbers(
                symbol, market.last_price, market.sequence, market.trade_id, market.aggregate_id,
                market.prevented_id,
            )  # fmt: skip
            for half in (market.book.bids, market.book.asks):
                for level in half.in_priority():
                    for order in level.orders():
                        core.rest(
                            symbol, half.side, order.order_id, order.account_id, level.price, order.quantity
                        )
        for answered in other.requests.oldest_first:
            core.remember(
                answered.time, answered.reply_to, answered.reply.request_id, encode_frame(answered.reply)
            )
        for reply_to, request_id in other.requests_under_way:
            core.add_under_way(reply_to, request_id)
        state.transfers = other.transfers
        state.key_expiries, state.drains = other.key_expiries, other.drains
        state.cancel_alls |= other.cancel_alls
        state.received, state.sent = other.received, other.sent
        state.time, state.command_count, state.checksum = other.time, other.command_count, other.checksum
        state.order_count, state.execution_count = other.order_count, other.execution_count
        core.set_counts(hash_due=shard.journal.hash_due, has_drains=bool(state.drains))

    def take_over_rare(self, accounts: list[bytes]) -> None:
        """Take over what accounts of a snapshot have besides funds and orders."""
        state = self.state
        for encoded in accounts:
            account = _decode_account(encoded)
            keyed = snapshot._restore_keyed(account, state.windows)
            if keyed is not None:
                state.keyed[account.account_id] = keyed
            if account.limits is not None:
                state.accounts[account.account_id].set_limits(  # type: ignore[attr-defined]
                    account.limits, account.order_counts or OrderCounts()
                )

    def _take_over_account(self, account_id: AccountId, account: Account) -> None:
        state, core = self.state, self._core
        core.add_account(account_id, account.changed_time)
        for asset, funds in account.funds.items():
            core.set_funds(account_id, asset, funds.available, funds.held)
        for orders in account.open_orders.values():
            for order in orders.values():
                if order.close_reason is not None or order.course is not None:
                    raise InvariantBroken(f"order {order.order_id} is open, and was closed")
                core.restore_order(account_id, order, account.client_order_ids[order.client_order_id])
        if account.keyed is not None:
            state.keyed[account_id] = account.keyed
        if account.limits is not None:
            state.accounts[account_id].set_limits(  # type: ignore[attr-defined]  # it is an `AccountView`
                account.limits, account.order_counts or OrderCounts()
            )
