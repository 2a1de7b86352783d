"""One shard: the accounts hashed to it and the books of its markets, as a deterministic state machine.

An order's life has two halves, which may be on two shards. The account's half checks, holds the funds and
gives the order its number; the market's half matches; the account's half settles what came of it. They speak
only by messages (protocol/commands.py). `_send` hands a message to this very shard at once when it is the
target, otherwise it goes to the outbox; so one shard and many run the same steps in the same order.

Given the same commands with the same times, every shard produces the same state, events, replies and
messages: nothing here reads a clock, the environment or a random source, or iterates over anything unordered.
"""

import hashlib
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from engine_worker.core.accounts import Account, AssetTotals, InvariantBroken, OrderCounts, PlacedOrder
from engine_worker.core.authority import Authority
from engine_worker.core.drains import Drain
from engine_worker.core.enums import (
    BUY,
    CANCELED,
    EXPIRED,
    EXPIRED_IN_MATCH,
    FILLED,
    FOK,
    GTC,
    IN_FLIGHT,
    IOC,
    LIMIT_MAKER,
    MAKER,
    MARKET,
    NEW,
    PARTIALLY_FILLED,
    SELL,
    TAKER,
    make_balance,
    make_fill_report,
    make_order,
    make_order_filled,
)
from engine_worker.core.market_state import MakerMessage, MarketState, cancel_missed, refused_taker
from engine_worker.core.outcomes import (
    AnsweredRequests,
    FirstOutcome,
    KeyedCommand,
    KeyedRequest,
    KeyedRequests,
    Request,
    Transfer,
    Transfers,
    fingerprint_of,
    transfer_key,
)
from protocol.codec import OLDEST_FORMAT, encode_as, encode_events, frame_items
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
    MessageFrame,
    PlaceOrder,
    RestingClosed,
    ShardMessage,
    Signed,
    SignedBody,
    SkipEntry,
    TakerOutcome,
    Tick,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import MarketConfig, MarketStatus, OperatorKey, Role, ShardConfig
from protocol.decoding import array_items
from protocol.events import (
    AccountClosed,
    AccountLimited,
    EntrySkipped,
    Event,
    FeesWithdrawn,
    FundsDeposited,
    FundsReleased,
    FundsWithdrawn,
    MarketConfigured,
    MatchPrevented,
    OrderAccepted,
    OrderClosed,
    ShardConfigured,
    StateHashed,
    TimePassed,
)
from protocol.market import ACCOUNT_SLOTS, NO_ASSETS, SHARD_COUNT_MAX, Market, MarketMap, assets_of
from protocol.market_data import DepthSnapshot
from protocol.orders import (
    Balance,
    CloseReason,
    FillReport,
    Liquidity,
    OrderCourse,
    OrderState,
    OrderStatus,
    Prevented,
    RejectReason,
    are_supported,
)
from protocol.release import release_of, this_release, too_new, why_later, why_too_early
from protocol.replies import (
    AuditQuery,
    AuditReply,
    AuditRow,
    BalancesQuery,
    Canceling,
    ConfigQuery,
    ConfigReply,
    Configured,
    FundsReply,
    OpenOrdersQuery,
    OrderQuery,
    OrderReply,
    OrdersReply,
    Query,
    Refused,
    Reply,
    stored_audit_row,
)
from protocol.signing import decode_signed_body
from protocol.units import (
    AMOUNT_UNITS_MAX,
    PPM,
    AccountId,
    AssetUnits,
    OrderId,
    PriceTicks,
    QuantityLots,
    TimeMs,
    TradeId,
)
from protocol.units import (
    Sequence as MarketSequence,
)
from protocol.windows import DEFAULT_WINDOWS, Windows

STATE_HASH_INTERVAL: Final = 10_000
"""Commands between two `StateHashed`.

Replays of a log depend on it: with another one they produce other events.
"""
WRITER_BEHIND_MS_MAX: Final = 1_000
"""So far a writer's clock may be behind, or its entry under way, before it holds the shard's time back."""

BALANCE_UNITS_MAX: Final = 2 * AMOUNT_UNITS_MAX
"""Of one asset; what an account may have for a moment, and what every writer of 64 bits holds."""
_NEVER: Final = TimeMs(2**63)
UNBOUNDED: Final = 2**63
_NO_ORDER: Final = OrderId(0)
_NO_PRICE: Final = PriceTicks(1)
"""In a message about an order that has none."""

DROPS_PER_COMMAND: Final = 64
"""Outcomes, and transfers, that may be dropped per command, some 10 µs.

A command adds one, so this catches up soon after a burst.
"""


_FIRST: Final = ShardConfig(rules=1)
"""With the lowest numbers that there are."""


class Output(NamedTuple):
    """What a shard produced since it was last asked, each in order."""

    events: list[Event]
    replies: list[tuple[str, Reply]]
    """(reply_to, reply)."""
    outbox: list[tuple[int, int, ShardMessage]]
    """(target shard, sequence, message)."""
    frame: bytes
    """The events as a frame; empty when there are none."""
    closed: list[OrderState]
    """The orders that the events have closed."""


class CancelAllRequest:
    """A request to cancel several orders, until the last of them is answered."""

    __slots__ = ("orders", "waiting")

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.orders: list[OrderState] = []


class Shard:
    """The state machine. `apply` changes it, `take` returns what came of that, `answer` only looks."""

    __slots__ = (
        "_all_kept_until",
        "_checksummed",
        "_closed",
        "_closed_from",
        "_command_handlers",
        "_entered",
        "_events",
        "_handlers",
        "_hash_due",
        "_in_flight_max",
        "_is_founding",
        "_not_trading",
        "_open_orders_max",
        "_outbox",
        "_replies",
        "_reply_to",
        "_request_id",
        "_signer",
        "_switched",
        "accounts",
        "authority",
        "cancel_alls",
        "checksum",
        "command_count",
        "config",
        "drains",
        "execution_count",
        "in_flight",
        "index",
        "key_expiries",
        "market_configs",
        "market_map",
        "markets",
        "open_order_count",
        "order_count",
        "received",
        "requests",
        "requests_under_way",
        "sent",
        "shard_count",
        "slots",
        "time",
        "totals",
        "transfers",
        "windows",
    )

    def __init__(self, index: int, market_map: MarketMap, windows: Windows = DEFAULT_WINDOWS) -> None:
        """Make the empty shard number `index`, configured as `market_map` and `windows` say; with no market:
        not configured yet.
        """
        self.index = index
        self.shard_count = market_map.shard_count
        self.config = ShardConfig(windows=windows) if market_map.markets else None
        self.windows = windows
        self.authority = Authority()
        self._signer: OperatorKey | None = None
        """Whose signature the command has that is handled; None: it has none."""
        self._is_founding = False
        """Whether the entry that is applied found the shard without a configuration: then what configures it
        needs no signature."""
        self._closed_from = _NEVER
        """From when on orders are refused."""
        self._open_orders_max = self._in_flight_max = UNBOUNDED
        self.in_flight: defaultdict[int, int] = defaultdict(int)
        """Shard -> orders that it was sent and has not answered.

        It follows from the open orders, so no snapshot has it.
        """
        self.slots = market_map.slots
        """Account slot -> shard."""
        self.market_map = MarketMap.placed([], market_map.shard_count, self.slots)
        """The markets that this shard knows, its own and those of others."""
        self.market_configs: dict[str, MarketConfig] = {}
        self.markets: dict[str, MarketState] = {}
        """Its own."""
        self._not_trading: dict[str, MarketStatus] = {}
        self.accounts: dict[AccountId, Account] = {}
        self.totals: dict[str, AssetTotals] = {}
        self.order_count = 0
        self.open_order_count = 0
        self.execution_count = 0
        self.command_count = 0
        self.drains: deque[Drain] = deque()
        """Orders that are to be canceled, some with each command."""
        self.requests = AnsweredRequests(windows.request_ms)
        self.requests_under_way: dict[Request, None] = {}
        """Commands that wait for another shard; a repetition of one gets the answer when that comes."""
        self._reply_to = ""
        self._request_id: int | None = None
        """Of the command that is being handled, until it is answered."""
        self.key_expiries: deque[tuple[TimeMs, AccountId]] = deque()
        """When which account got an outcome that it keeps under an idempotency key, oldest first."""
        self.transfers = Transfers(windows.transfer_ms)
        self._all_kept_until = TimeMs(0)
        """Up to then no outcome is too old; nor is any that is remembered meanwhile."""
        self.cancel_alls: dict[Request, CancelAllRequest] = {}
        self.received: dict[int, int] = {}
        """Source shard -> the number of its last message that was applied."""
        self.sent: dict[int, int] = {}
        """Target shard -> the number of the last message to it."""
        self.checksum = 0
        """Of the encodings of all events that were ever produced, up to the last `take` or `StateHashed`."""
        self._hash_due = STATE_HASH_INTERVAL
        self._checksummed = 0
        """How many of `_events` are in the checksum."""
        self._switched: list[msgspec.Raw] = []
        """The first of `_events`, encoded, when the shard was switched to another format behind them."""
        self.time = TimeMs(0)
        """The shard's time, which never goes back."""
        self._entered = TimeMs(0)
        """When the entry that is applied was appended, by Redis's clock."""
        self._events: list[Event] = []
        self._replies: list[tuple[str, Reply]] = []
        self._outbox: list[tuple[int, int, ShardMessage]] = []
        self._closed: list[OrderState] = []
        self._command_handlers: dict[type, Callable[[Any], None]] = {
            PlaceOrder: self._place_order,
            CancelOrder: self._cancel_order,
            CancelAllOrders: self._cancel_all_orders,
            Deposit: self._transfer,
            Withdraw: self._transfer,
            ConfigureShard: self._configure_shard,
            ConfigureMarket: self._configure_market,
            WithdrawFees: self._withdraw_fees,
            CloseAccount: self._close_account,
            LimitAccount: self._limit_account,
            CancelOrders: self._cancel_orders,
        }
        self._handlers: dict[type, Callable[[Any], None]] = {
            PlaceOrder: self._apply_command,
            CancelOrder: self._apply_command,
            CancelAllOrders: self._apply_command,
            Tick: self._tick,
            MatchOrder: self._match_order,
            CancelResting: self._cancel_resting,
            TakerOutcome: self._taker_outcome,
            MakerFill: self._maker_fill,
            RestingClosed: self._resting_closed,
            CancelMissed: self._cancel_missed,
            KnowMarket: self._know_market,
        }
        for market in market_map.markets:
            self.set_market(MarketConfig(market, market_map.shard_of_market(market.symbol)))

    # ------------------------------------------------------------------ in and out

    def let_go(self) -> None:
        """Take apart what refers to each other: no collector runs beside the matching.

        The state is not used any more.
        """
        for market in self.markets.values():
            market.book.let_go()
        self._handlers.clear()
        self._command_handlers.clear()

    @property
    def waiting_events(self) -> int:
        """How many events the next `take` returns."""
        return len(self._events)

    def enter(
        self, entered: TimeMs, written_us: int | None, behind_ms_max: int = WRITER_BEHIND_MS_MAX
    ) -> TimeMs:
        """Return the time of an entry that was appended at `entered` (Redis's clock) and written at
        `written_us` (its writer's).

        The earlier of the two counts, with a second of grace for the writer's, and no time is before the
        last: so neither clock, when it is wrong alone, can move the shard's time from what is right by more
        than that second. Another shard's stamp, its time, has that second in it: with `behind_ms_max` 0 mail
        to and fro adds none.
        """
        self._entered = entered
        self._is_founding = self.config is None
        if written_us is not None:
            written = written_us // 1_000 + behind_ms_max
            if written < entered:
                entered = written  # type: ignore[assignment]  # to name the unit is a call, and every entry comes by here
        return entered if entered > self.time else self.time

    def apply(self, command: LoggedCommand | ShardMessage, time: TimeMs) -> None:
        """Apply one command, at `time`.

        Raises:
            InvariantBroken: the state is wrong; it must not be used or published.
        """
        self.time = time
        self.command_count += 1
        if time > self._all_kept_until:
            self._drop_old_outcomes()
        self._handlers.get(type(command), self._apply_of_operator)(command)
        if self.drains:
            self._drain()
        if self.command_count >= self._hash_due:
            self._hash_state()

    def refuse_unread(self, reply_to: str, request_id: int) -> None:
        """Tell whoever sent a command that is not understood.

        Nothing is remembered of it: the state stays as it is.
        """
        self._replies.append((reply_to, Refused(request_id, self.time, RejectReason.NOT_UNDERSTOOD)))

    def pass_over(self, skip: SkipEntry, source: int | None = None, last_sequence: int = 0) -> None:
        """Go on behind an entry of which nothing is applied, as an operator said.

        It counts as a command, and no time passes.

        When it has messages, of `source` up to `last_sequence`, they count as received: otherwise the next
        one would be one too many.
        """
        self.command_count += 1
        if source is not None:
            self.received[source] = max(self.received.get(source, 0), last_sequence)
        self._events.append(EntrySkipped(self.time, skip.stream_id, skip.operator, skip.reason))
        if self.command_count >= self._hash_due:
            self._hash_state()

    def new_messages(self, frame: MessageFrame) -> Iterator[ShardMessage]:
        """Yield the messages that were not applied before, and count each as applied, which the caller does.

        Raises:
            InvariantBroken: a message is missing, or the frame is for another shard.
        """
        if frame.target != self.index:
            raise InvariantBroken(f"a frame for shard {frame.target} reached shard {self.index}")
        seen = self.received.get(frame.source, 0)
        if frame.first_sequence > seen + 1:
            raise InvariantBroken(
                f"messages {seen + 1} to {frame.first_sequence - 1} from shard {frame.source} are missing"
            )
        for message in frame.messages[seen + 1 - frame.first_sequence :]:
            seen += 1
            self.received[frame.source] = seen
            yield message

    def take(self) -> Output:
        """Return what was produced since the last call.

        Raises:
            InvariantBroken: what came of it is not worth what went in.
        """
        self.check_money()
        events = self._events
        frame = b""
        if self.config is not None and self.config.kinds < this_release().kinds:
            self._check_kinds(self.config.kinds)
        if events:
            number = self.format
            items = encode_as(
                number, [*self._switched, *events[len(self._switched) :]] if self._switched else events
            )
            frame = encode_events(items, self.time * 1_000, number)
            if self._checksummed:  # rarely: some of them came before a `StateHashed`
                self._checksum_events()
            else:
                self.checksum = zlib.crc32(frame_items(items, len(events)), self.checksum)
        output = Output(events, self._replies, self._outbox, frame, self._closed)
        self._events, self._replies, self._outbox, self._closed = [], [], [], []
        self._checksummed, self._switched = 0, []
        return output

    @property
    def format(self) -> int:
        """The format of the frames and snapshots that the shard writes."""
        return self.config.format if self.config is not None else OLDEST_FORMAT

    def _check_kinds(self, kinds: int) -> None:
        """Refuse to tell anything that processes of the release before do not understand.

        Raises:
            InvariantBroken: something was produced before the shard was switched to its level.
        """
        for produced in (self._events, (message for _, _, message in self._outbox)):
            if (name := too_new(produced, kinds)) is not None:
                raise InvariantBroken(
                    f"{name} was produced before the shard was switched to it; its kinds are of level {kinds}"
                )

    def go_on_from(self, command_count: int, checksum: int) -> None:
        """Take over the counts of the shard that this one is restored from."""
        self.command_count, self.checksum = command_count, checksum
        self._hash_due = command_count - command_count % STATE_HASH_INTERVAL + STATE_HASH_INTERVAL

    def _checksum_events(self) -> None:
        new = self._events[self._checksummed :]
        self.checksum = zlib.crc32(frame_items(encode_as(self.format, new), len(new)), self.checksum)
        self._checksummed = len(self._events)

    def _hash_state(self) -> None:
        self._hash_due += STATE_HASH_INTERVAL
        self._checksum_events()
        self._events.append(StateHashed(self.time, self.command_count, self.digest()))

    def digest(self) -> str:
        """Return what a `StateHashed` says of the state, in hex.

        It costs the same however many accounts and orders there are.

        Events not yet taken count only after the next `take`, or when they came before a `StateHashed`.
        """
        totals = [(asset, *total.stored()) for asset, total in sorted(self.totals.items())]
        markets = [
            (
                *(
                    symbol,
                    state.last_price,
                    state.sequence,
                    state.trade_id,
                    state.aggregate_id,
                    len(state.book.orders),
                ),
                state.prevented_id,
                *(
                    (half.best.price, half.best.quantity, half.best.order_count)
                    if half.best is not None
                    else None
                    for half in (state.book.bids, state.book.asks)
                ),
            )
            for symbol, state in sorted(self.markets.items())
        ]
        configs = (self.config, [config for _, config in sorted(self.market_configs.items())])
        counts = (self.time, self.index, self.command_count, self.order_count, len(self.accounts))
        work = (self.execution_count, list(self.drains), sorted(self.authority.given.items()))
        mail = (sorted(self.received.items()), sorted(self.sent.items()))
        state = encode_as(self.format, (self.checksum, counts, mail, totals, markets, configs, work))
        return hashlib.blake2b(state, digest_size=16).hexdigest()

    def _send(self, target: int, message: ShardMessage) -> None:
        if target == self.index:
            self._handlers[type(message)](message)
        else:
            sequence = self.sent[target] = self.sent.get(target, 0) + 1
            self._outbox.append((target, sequence, message))

    # ------------------------------------------------------------------ one outcome per request

    def _tick(self, _: Tick) -> None:
        self._events.append(TimePassed(self.time))

    def _apply_of_operator(self, command: Signed | SignedBody) -> None:
        self._signer = None
        authorized = self._authorized(command)
        if authorized is not None:
            self._apply_command(authorized, 0)

    def _apply_command(
        self, command: PlaceOrder | CancelOrder | CancelAllOrders | SignedBody, deadline_ms: int | None = None
    ) -> None:
        """Handle a command, unless it is a repetition: then its first outcome is its answer.

        Of an operator's it must be said that it has no deadline.
        """
        if deadline_ms is None:
            deadline_ms = command.deadline_ms  # type: ignore[union-attr]  # a client's command
        reply_to, request_id = command.reply_to, command.request_id
        if reply_to and request_id:
            channel = self.requests.by_channel.get(reply_to)
            if channel is not None and request_id in channel:
                first = self.requests.find(reply_to, request_id, self.time)
                if first is not None:
                    self._replies.append((reply_to, first))
                    return
            if self.requests_under_way and (reply_to, request_id) in self.requests_under_way:
                return
            self._reply_to, self._request_id = reply_to, request_id
        if deadline_ms and deadline_ms < self._entered:
            # Before its idempotency key is looked at: whoever comes with that again in time wants it done.
            self._refuse(reply_to, request_id, RejectReason.TOO_LATE)
        else:
            self._command_handlers[type(command)](command)
        if self._request_id is not None:
            self.requests_under_way[reply_to, request_id] = None
            self._request_id = None

    def _authorized(self, command: Signed | SignedBody) -> SignedBody | None:
        """Return the command that a key has signed, or that needs no signature; refuse what does not count.

        Such a refusal is not remembered: it must not take the place of the outcome of a command that counts.
        """
        reason: RejectReason | None = None
        if isinstance(command, Signed) and not self.authority.keys:
            body = decode_signed_body(command.command)  # nobody's signature is known here yet
        elif isinstance(command, Signed):
            body, signed = decode_signed_body(command.command), command
            reason = self.authority.reason_to_refuse(
                signed,
                body,
                self.index,
                self._entered,
                self.windows.request_ms,
                self.time,
                self.market_map.by_asset,
            )
            if reason is None:
                self._signer = self.authority.keys[signed.key]
        else:
            body = command
            is_needed = bool(self.authority.keys) and not self._is_founding
            reason = RejectReason.NOT_AUTHORIZED if is_needed else None
        if reason is not None:
            self._replies.append((body.reply_to, Refused(body.request_id, self.time, reason)))
            return None
        return body

    def _is_first_of_its_key(self, command: KeyedCommand) -> bool:
        """Return whether the command is to be handled.

        Answer it, or let it wait for its first outcome, if not.
        """
        account = self.accounts.get(command.account_id)
        if account is None:  # it has nothing, so it will be refused, and that is an outcome, too
            account = self.accounts[command.account_id] = Account(command.account_id, self.time)
        keyed, key = account.keyed, command.idempotency_key
        if keyed is None:
            keyed = account.keyed = KeyedRequests(self.windows.key_ms)
        fingerprint = fingerprint_of(command)
        first, waiting = keyed.outcomes.find(key, self.time), keyed.under_way.get(key)
        known = first if first is not None else waiting
        if known is not None and known.fingerprint != fingerprint:
            self._refuse(command.reply_to, command.request_id, RejectReason.IDEMPOTENCY_KEY_REUSED)
        elif first is not None:
            self._reply(command.reply_to, msgspec.structs.replace(first.reply, request_id=command.request_id))
        elif waiting is not None:
            waiting.repeated_by.append((command.reply_to, command.request_id))
        elif not keyed.has_room(self.time, self.windows.keys_max):
            self._refuse(command.reply_to, command.request_id, RejectReason.TOO_MANY_IDEMPOTENCY_KEYS)
        else:
            keyed.under_way[key] = KeyedRequest(fingerprint)
            return True
        return False

    def _reply(self, reply_to: str, reply: Reply) -> None:
        """Answer a command, and remember the answer."""
        self._replies.append((reply_to, reply))
        if reply.request_id == self._request_id and reply_to == self._reply_to:
            self._request_id = None  # as nearly always: a command that is answered at once
        elif self.requests_under_way:
            request = (reply_to, reply.request_id)
            if request not in self.requests_under_way:
                return
            del self.requests_under_way[request]
        else:
            return
        self.requests.remember(self.time, reply_to, reply)

    def _reply_keyed(self, account_id: AccountId, key: str, reply_to: str, reply: Reply) -> None:
        """Answer a command that may have an idempotency key, and whoever has repeated it meanwhile."""
        self._reply(reply_to, reply)
        if key:
            self._keep_outcome(account_id, key, reply)

    def _keep_outcome(self, account_id: AccountId, key: str, reply: Reply) -> None:
        keyed = self.accounts[account_id].keyed
        if keyed is None or key not in keyed.under_way:
            raise InvariantBroken(f"account {account_id}: an idempotency key has an outcome, but no request")
        request = keyed.under_way.pop(key)
        keyed.outcomes.remember(FirstOutcome(key, self.time, reply, request.fingerprint))
        self.key_expiries.append((self.time, account_id))
        for repeated_to, request_id in request.repeated_by:
            self._reply(repeated_to, msgspec.structs.replace(reply, request_id=request_id))

    def _drop_old_outcomes(self) -> None:
        """Drop a few outcomes that are too old; whether one still counts does not depend on it."""
        now, expiries = self.time, self.key_expiries
        oldest_first = self.requests.oldest_first
        if oldest_first and now - oldest_first[0].time > self.windows.request_ms:
            self.requests.drop_old(now, DROPS_PER_COMMAND)
        transfers = self.transfers.oldest_first
        if transfers and now - transfers[0].time > self.windows.transfer_ms:
            self.transfers.drop_old(now, DROPS_PER_COMMAND)
        for _ in range(DROPS_PER_COMMAND):
            if not expiries or now - expiries[0][0] <= self.windows.key_ms:
                break
            account = self.accounts.get(expiries.popleft()[1])
            if account is not None and account.keyed is not None:  # it may have been closed since
                account.keyed.outcomes.drop_old(now, 1)
                if not account.keyed.outcomes.oldest_first and not account.keyed.under_way:
                    account.keyed = None
        windows = self.windows
        self._all_kept_until = TimeMs(
            min(
                (oldest_first[0].time if oldest_first else now) + windows.request_ms,
                (transfers[0].time if transfers else now) + windows.transfer_ms,
                (expiries[0][0] if expiries else now) + windows.key_ms,
            )
        )

    def _refuse(self, reply_to: str, request_id: int, reason: RejectReason) -> None:
        self._reply(reply_to, Refused(request_id, self.time, reason))

    def _refuse_for_now(self, command: PlaceOrder, account: Account, reason: RejectReason) -> None:
        """Refuse what may be asked again later with the same idempotency key."""
        if command.idempotency_key and account.keyed is not None:
            del account.keyed.under_way[command.idempotency_key]
            if not account.keyed.under_way and not account.keyed.outcomes.oldest_first:
                account.keyed = None
        self._refuse(command.reply_to, command.request_id, reason)

    def _refuse_keyed(self, command: KeyedCommand, reason: RejectReason) -> None:
        refused = Refused(command.request_id, self.time, reason)
        self._reply_keyed(command.account_id, command.idempotency_key, command.reply_to, refused)

    # ------------------------------------------------------------------ configuration

    def _configure_shard(self, command: ConfigureShard) -> None:
        config, known = command.config, self.config
        if config.version != (known.version if known is not None else 0) + 1:
            self._refuse(command.reply_to, command.request_id, RejectReason.CONFIG_OUTDATED)
        elif not self._may_follow(config):
            self._refuse(command.reply_to, command.request_id, RejectReason.CONFIG_REFUSED)
        elif (reason := why_later(config) or why_too_early(config)) is not None:
            # Another program decides otherwise, so this one must not say that it is refused.
            raise InvariantBroken(f"the shard is switched to what another release does: it {reason}")
        else:
            if config.format != self.format:
                self._checksum_events()
                self._switched += map(
                    msgspec.Raw, array_items(encode_as(self.format, self._events))[len(self._switched) :]
                )
            self.set_config(config)
            self._events.append(ShardConfigured(self.time, config))
            self._reply(command.reply_to, Configured(command.request_id, self.time, config.version))

    def _may_follow(self, config: ShardConfig) -> bool:
        """Return whether nobody would be locked out or misplaced by a configuration, and it leads to no
        earlier release.
        """
        names = {key.name for key in config.keys}
        has_operator = any(key.role is Role.OPERATOR for key in config.keys)
        slots = config.slots
        return (
            all(
                new >= old
                for new, old in zip(release_of(config), release_of(self.config or _FIRST), strict=True)
            )
            and min(config.windows) >= 1
            and len(names) == len(config.keys)
            and (has_operator or not (config.keys or self.authority.keys))
            # Accounts cannot be moved yet, so a table that places them elsewhere would lose them.
            and (not slots or slots == self.slots or (self.config is None and self._is_table(slots)))
        )

    def _is_table(self, slots: bytes) -> bool:
        return len(slots) == ACCOUNT_SLOTS and max(slots) < self.shard_count and not self.accounts

    def set_config(self, config: ShardConfig) -> None:
        """Follow a configuration from now on."""
        self.config, self.windows = config, config.windows
        self.authority.set_keys(config.keys)
        self._closed_from = config.maintenance_from or _NEVER
        self._open_orders_max = config.open_orders_max or UNBOUNDED
        self._in_flight_max = config.in_flight_max or UNBOUNDED
        if config.slots:
            self.slots = config.slots
            self._map_markets()
        self._all_kept_until = TimeMs(0)
        self.requests.window_ms = config.windows.request_ms
        self.transfers.window_ms = config.windows.transfer_ms
        for account in self.accounts.values():
            if account.keyed is not None:
                account.keyed.outcomes.window_ms = config.windows.key_ms

    def _configure_market(self, command: ConfigureMarket) -> None:
        reason = self._reason_not_to_configure(command.config)
        if reason is not None:
            self._refuse(command.reply_to, command.request_id, reason)
            return
        self._change_market(command.config)
        self._reply(command.reply_to, Configured(command.request_id, self.time, command.config.version))

    def _change_market(self, config: MarketConfig) -> None:
        """Let a market of this shard be configured so, tell everybody, and begin or end what its status asks
        for.
        """
        self.set_market(config)
        self._events.append(MarketConfigured(self.time, config))
        for shard in range(self.shard_count):
            if shard != self.index:
                self._send(shard, KnowMarket(config))
        symbol = config.market.symbol
        if config.status is MarketStatus.TRADING:
            # What is placed from now on must not fall to an operator's earlier word.
            self.drains = deque(drain for drain in self.drains if drain.account_id or drain.market != symbol)
        elif config.status is MarketStatus.DELISTING:
            drain = Drain(AccountId(0), symbol, CloseReason.MARKET_DELISTED)
            if drain not in self.drains:
                self.drains.append(drain)

    def _map_markets(self) -> None:
        configs = self.market_configs.values()
        placed = [(each.market, each.shard) for each in configs]
        listed = [each.market for each in configs if each.status is not MarketStatus.DELISTED]
        # What a delisted market says of a supply counts only where no other has the asset any more.
        assets = assets_of(listed) if len(listed) < len(placed) else NO_ASSETS
        self.market_map = MarketMap.placed(placed, self.shard_count, self.slots, assets=assets)

    def set_market(self, config: MarketConfig) -> None:
        """Have a market of this shard, or of another, configured so from now on."""
        self.set_markets([config])

    def set_markets(self, configs: Sequence[MarketConfig]) -> None:
        """Have several markets configured so: all that there are in the work of one."""
        self.market_configs |= {config.market.symbol: config for config in configs}
        self._map_markets()
        for config in configs:
            self._follow_config(config)

    def _follow_config(self, config: MarketConfig) -> None:
        market, symbol = config.market, config.market.symbol
        self._not_trading.pop(symbol, None)
        if config.status is not MarketStatus.TRADING:
            self._not_trading[symbol] = config.status
        for asset in (market.base, market.quote):
            if asset not in self.totals:
                self.totals[asset] = AssetTotals()
        if config.shard != self.index:
            return
        if symbol in self.markets:
            self.markets[symbol].market = market
        else:
            self.markets[symbol] = MarketState(market)

    def _reason_not_to_configure(self, config: MarketConfig) -> RejectReason | None:
        if self.config is None or config.shard != self.index:
            return RejectReason.CONFIG_REFUSED
        known = self.market_configs.get(config.market.symbol)
        if config.version != (known.version if known is not None else 0) + 1:
            return RejectReason.CONFIG_OUTDATED
        if known is None:
            ends = config.status in (MarketStatus.DELISTING, MarketStatus.DELISTED)
            return RejectReason.CONFIG_REFUSED if ends or self._has_other_scales(config.market) else None
        if config.status is MarketStatus.DELISTED is not known.status:
            return RejectReason.CONFIG_REFUSED  # a market becomes that by itself, once nothing rests there
        new, old = config.market, known.market
        # Orders may be on their way that another shard has counted in the old ticks and lots.
        is_other = (new.base, new.quote, new.tick_size, new.lot_size, new.base_scale, new.quote_scale) != (
            old.base,
            old.quote,
            old.tick_size,
            old.lot_size,
            old.base_scale,
            old.quote_scale,
        )
        return RejectReason.CONFIG_REFUSED if is_other or known.shard != self.index else None

    def _has_other_scales(self, market: Market) -> bool:
        """Return whether the shard counts an asset of `market` in other units, as markets that it knows
        say.
        """
        known = self.market_map.by_asset
        return any(known.get(asset.symbol, asset).scale != asset.scale for asset in market.assets)

    def _know_market(self, message: KnowMarket) -> None:
        """Know a market of another shard, unless this one was told otherwise before: two operators spoke at
        once, and the first counts.

        A market that stays unknown for its scales stays so for good: accounts here do not trade there, so its
        units never meet those of this shard (docs/decisions/0004-money.md).
        """
        known = self.market_configs.get(message.config.market.symbol)
        is_other = (
            self._has_other_scales(message.config.market)
            if known is None
            else known.shard != message.config.shard
        )
        if not is_other:
            self.set_market(message.config)

    # ------------------------------------------------------------------ the account's half: placing

    def _place_order(self, command: PlaceOrder) -> None:
        if command.idempotency_key and not self._is_first_of_its_key(command):
            return
        account = self.accounts.get(command.account_id)
        market = self.market_map.by_symbol.get(command.market)
        if market is None:
            self._refuse_keyed(command, RejectReason.UNKNOWN_MARKET)
            return
        if command.market in self._not_trading:
            self._refuse_keyed(command, RejectReason.MARKET_CLOSED)
            return
        if self.time >= self._closed_from:
            self._refuse_keyed(command, RejectReason.UNDER_MAINTENANCE)
            return
        reason = self._reason_to_refuse(command, market, account)
        if reason is None and account is not None and account.limits is not None:
            reason = account.reason_of_limits(self.time)
        hold = self._hold_for(command, market, account) if reason is None and account is not None else 0
        if account is None or not hold:
            self._refuse_keyed(command, reason or RejectReason.INSUFFICIENT_BALANCE)
            return

        market_shard = self.market_map.shards[command.market]
        is_local = market_shard == self.index
        if not is_local:
            if self.in_flight[market_shard] >= self._in_flight_max:
                self._refuse_for_now(command, account, RejectReason.MARKET_BEHIND)
                return
            self.in_flight[market_shard] += 1
        side = command.side
        asset = market.quote if side is BUY else market.base
        account.funds[asset].hold(hold)
        account.changed_time = self.time
        self.totals[asset].held += hold
        self.open_order_count += 1
        self.order_count += 1
        order_id: OrderId = self.order_count * SHARD_COUNT_MAX + self.index  # type: ignore[assignment]  # to name the unit is a call
        if account.limits is not None:
            account.count_order(self.time)
        order = make_order(
            order_id,
            command.account_id,
            command.client_order_id,
            market.symbol,
            side,
            command.order_type,
            command.time_in_force,
            command.price,
            command.quantity,
            command.quote_quantity,
            command.self_trade_prevention,
            # Nobody can look before this very shard has matched it, so there the order is at once what it
            # then becomes.
            NEW if is_local else IN_FLIGHT,
            0,
            0,
            hold,
            self.time,
            self.time,
            # Counted once the order is accepted: one that is refused takes no number.
            (self.execution_count + 1) * SHARD_COUNT_MAX + self.index if is_local else 0,
            1 if is_local else 0,
            None,
            command.terms,
        )
        orders = account.open_orders.get(market.symbol)
        if orders is None:
            orders = account.open_orders[market.symbol] = {}
        orders[order_id] = order
        account.client_order_ids[command.client_order_id] = PlacedOrder(
            order_id, command.request_id, command.reply_to, command.idempotency_key
        )

        quantity, budget = command.quantity, command.quote_quantity
        if command.order_type is MARKET:
            if budget:
                k = market.quote_per_tick_lot
                lots = budget // k if side is BUY else hold // market.base_per_lot
                quantity = QuantityLots(min(lots, market.quantity_max))
            elif side is BUY:
                budget = AssetUnits(hold)
        to_match = MatchOrder(
            order_id,
            command.account_id,
            market.symbol,
            side,
            command.order_type,
            command.time_in_force,
            command.price or _NO_PRICE,
            quantity,
            budget,
            command.quote_quantity > 0,
            command.self_trade_prevention,
            None,
            command.bound_by_book,
        )
        if is_local:
            self._match_order(to_match)
        else:
            self._send(market_shard, to_match)

    def _reason_to_refuse(
        self, command: PlaceOrder, market: Market, account: Account | None
    ) -> RejectReason | None:
        order_type, quantity, quote_quantity = command.order_type, command.quantity, command.quote_quantity
        price = command.price
        is_market = order_type is MARKET
        needs_price = True
        if is_market:
            by_one = (quantity > 0 and not quote_quantity) or (quote_quantity > 0 and not quantity)
            fits = by_one and command.time_in_force is IOC
            needs_price = not (command.bound_by_book and (command.side is SELL or quote_quantity))
        else:
            fits = quantity > 0 and not quote_quantity and not command.bound_by_book
            fits = fits and (order_type is not LIMIT_MAKER or command.time_in_force is GTC)
        if not fits or (command.terms is not None and not are_supported(command.terms)):
            return RejectReason.INVALID_COMBINATION
        if account is not None and command.client_order_id in account.client_order_ids:
            return RejectReason.DUPLICATE_CLIENT_ORDER_ID
        if not 1 <= price <= market.price_max if needs_price else price:
            return RejectReason.PRICE_OUT_OF_RANGE
        if quantity and not market.quantity_min <= quantity <= market.quantity_max:
            return RejectReason.QUANTITY_OUT_OF_RANGE
        notional = quote_quantity if is_market else price * quantity * market.quote_per_tick_lot
        if notional < market.notional_min and not (is_market and quantity):
            return RejectReason.NOTIONAL_TOO_SMALL
        if account is not None:
            open_here = account.open_orders.get(command.market)
            if open_here is not None and len(open_here) >= market.open_orders_max:
                return RejectReason.TOO_MANY_OPEN_ORDERS
            if len(account.client_order_ids) >= self._open_orders_max:
                return RejectReason.TOO_MANY_OPEN_ORDERS_IN_ALL
        return None

    def _hold_for(self, command: PlaceOrder, market: Market, account: Account) -> int:
        """Return what a valid order must hold; 0 when that is not available."""
        is_buy = command.side is BUY
        funds = account.funds.get(market.quote if is_buy else market.base)
        if funds is None:
            return 0
        available = funds.available
        if command.order_type is not MARKET:
            grid = command.price * market.quote_per_tick_lot if is_buy else market.base_per_lot
            needed = command.quantity * grid
        elif command.quote_quantity:
            if is_buy:
                needed = command.quote_quantity
            elif command.bound_by_book:
                # What it has to sell is known when its market has been asked. Until then nobody else may sell
                # it.
                needed = min(available // market.base_per_lot, market.quantity_max) * market.base_per_lot
            else:
                lots = -(-command.quote_quantity // (command.price * market.quote_per_tick_lot))
                needed = min(available // market.base_per_lot, lots) * market.base_per_lot
        elif is_buy:
            needed = min(available, command.price * command.quantity * market.quote_per_tick_lot)
        else:
            needed = command.quantity * market.base_per_lot
        return needed if needed <= available else 0

    # ------------------------------------------------------------------ the market's half

    def _match_order(self, order: MatchOrder) -> None:
        makers: Sequence[MakerMessage] = ()
        market = self.markets.get(order.market)
        if market is None:
            outcome = refused_taker(order, RejectReason.UNKNOWN_MARKET)
        elif order.market in self._not_trading:
            outcome = refused_taker(order, RejectReason.MARKET_CLOSED)
        else:
            outcome, makers = market.match_order(order, self.time, self._events)
        index, slots = self.index, self.slots
        taker_shard = slots[order.account_id % ACCOUNT_SLOTS]
        if taker_shard == index:
            self._taker_outcome(outcome)
        else:
            self._send(taker_shard, outcome)
        for message in makers:
            self._send(slots[message.account_id % ACCOUNT_SLOTS], message)

    def _cancel_resting(self, cancel: CancelResting) -> None:
        market = self.markets.get(cancel.market)
        message = (
            market.cancel_resting(cancel, self.time, self._events)
            if market is not None
            else cancel_missed(cancel)
        )
        self._send(self.slots[cancel.account_id % ACCOUNT_SLOTS], message)

    def count_in_flight(self, account: Account) -> None:
        """Count the orders of an account that comes from a snapshot."""
        for symbol, orders in account.open_orders.items():
            if under_way := sum(order.status is IN_FLIGHT for order in orders.values()):
                self.in_flight[self.market_map.shards[symbol]] += under_way

    # ------------------------------------------------------------------ the account's half: settling

    def _open_order(
        self, account_id: AccountId, market: str, order_id: OrderId
    ) -> tuple[Account, OrderState]:
        try:
            account = self.accounts[account_id]
            return account, account.open_orders[market][order_id]
        except KeyError:
            raise InvariantBroken(
                f"order {order_id} of account {account_id} is not open in {market}"
            ) from None

    def _taker_outcome(self, outcome: TakerOutcome) -> None:
        account, order = self._open_order(outcome.account_id, outcome.market, outcome.order_id)
        placed = account.client_order_ids[order.client_order_id]
        if order.status is IN_FLIGHT:
            self.in_flight[self.market_map.shards[order.market]] -= 1
        if outcome.reject_reason is not None:
            market = self.market_map.by_symbol[order.market]
            asset = market.quote if order.side is BUY else market.base
            # Only events of orders in flight may have shown the hold; on one shard nobody has seen it, so
            # nobody is told of its release.
            account.funds[asset].release(order.held)
            account.changed_time = self.time
            self.totals[asset].held -= order.held
            if order.status is IN_FLIGHT:
                self._events.append(FundsReleased(self.time, account.account_id, (account.balance(asset),)))
            self._forget_open(account, order, market)
            refused = Refused(placed.request_id, self.time, outcome.reject_reason)
            self._reply_keyed(account.account_id, placed.idempotency_key, placed.reply_to, refused)
            return
        market = self.market_map.by_symbol[order.market]
        if order.status is IN_FLIGHT:
            order = self._replace(order, NEW, order.quantity, order.cum_quantity, order.cum_quote, order.held)
            account.open_orders[order.market][order.order_id] = order
        else:
            self.execution_count += 1
        asset = market.quote if order.side is BUY else market.base
        funds = account.funds[asset]
        balance = make_balance(asset, funds.available, funds.held)
        # Accepted before filled, and with the balance before the first fill: readers apply events in their
        # order.
        self._events.append(OrderAccepted(self.time, order, (balance,)))
        reports: tuple[FillReport, ...] = ()
        if outcome.fills:
            last = outcome.fills[-1].trade_id
            collected = []
            for fill in outcome.fills:
                order, report = self._settle(
                    account,
                    order,
                    market,
                    fill.trade_id,
                    fill.price,
                    fill.quantity,
                    TAKER,
                    is_last=fill.trade_id == last and not outcome.rests,
                    is_spent=outcome.budget_spent,
                )
                collected.append(report)
            reports = tuple(collected)
        if outcome.prevented:
            self._tell_prevented(order, outcome.prevented)
        # After all fills, since closing releases what they have left of the hold.
        if not outcome.rests and order.status is not FILLED:
            if outcome.expired_in_match:
                order = self._close_prevented(
                    account, order, outcome.prevented[-1] if outcome.prevented else None
                )
            else:
                order = self._close(account, order, EXPIRED, _reason_to_expire(order, outcome))
        reply = OrderReply(placed.request_id, self.time, order, reports, outcome.prevented)
        self._reply(placed.reply_to, reply)
        if placed.idempotency_key:
            self._keep_outcome(account.account_id, placed.idempotency_key, reply)

    def _tell_prevented(self, taker: OrderState, prevented: tuple[Prevented, ...]) -> None:
        self._events += [
            MatchPrevented(
                self.time,
                taker.market,
                taker.account_id,
                each.match_id,
                each.maker_order_id,
                taker.order_id,
                each.price,
                each.maker_quantity,
                each.taker_quantity,
                taker.execution_id,
                taker.self_trade_prevention,
            )
            for each in prevented
        ]

    def _close_prevented(
        self,
        account: Account,
        order: OrderState,
        prevented: Prevented | None,
        taker_order_id: OrderId | None = None,
    ) -> OrderState:
        """Close an order that self-trade prevention has ended: the maker if `taker_order_id` is given,
        otherwise the taker.

        A message of before prevented matches were numbered does not say for which.
        """
        reason = CloseReason.SELF_TRADE_PREVENTED
        if prevented is None:
            return self._close(account, order, EXPIRED_IN_MATCH, reason)
        is_maker = taker_order_id is not None
        course = OrderCourse(
            prevented_quantity=prevented.maker_quantity if is_maker else prevented.taker_quantity,
            prevented_match_id=prevented.match_id,
        )
        counter = prevented.maker_order_id if taker_order_id is None else taker_order_id
        return self._close(account, order, EXPIRED_IN_MATCH, reason, "", course, prevented, counter)

    def _maker_fill(self, fill: MakerFill) -> None:
        account, order = self._open_order(fill.account_id, fill.market, fill.order_id)
        market = self.market_map.by_symbol[fill.market]
        self._settle(account, order, market, fill.trade_id, fill.price, fill.quantity, MAKER, is_last=False)

    def _settle(
        self,
        account: Account,
        order: OrderState,
        market: Market,
        trade_id: TradeId,
        price: PriceTicks,
        quantity: QuantityLots,
        liquidity: Liquidity,
        *,
        is_last: bool,
        is_spent: bool = False,
    ) -> tuple[OrderState, FillReport]:
        """Move the money of one fill and return the order after it.

        The fee is taken from what is received and rounded up to a whole unit, in the house's favour; it never
        exceeds what is received, so no money is made. What a better price than the limit saves is released at
        once.
        """
        k = market.quote_per_tick_lot
        quote, base = price * quantity * k, quantity * market.base_per_lot
        cum_quantity, cum_quote = order.cum_quantity + quantity, order.cum_quote + quote
        is_buy, held_before, now = order.side is BUY, order.held, self.time
        if is_buy:
            paid_asset, received_asset = market.quote, market.base
            paid, received = quote, base
        else:
            paid_asset, received_asset = market.base, market.quote
            paid, received = base, quote
        fee_ppm = market.maker_fee_ppm if liquidity is MAKER else market.taker_fee_ppm
        fee = -(-received * fee_ppm // PPM)

        # By quote: what is left pays no lot of the next order, or none at this price, and no later one is
        # better: it is used up.
        budget_used = is_last and (is_spent or order.quote_quantity - cum_quote < price * k)
        filled = budget_used if order.quote_quantity else cum_quantity == order.quantity
        if filled:
            held = 0
        elif is_buy and order.order_type is not MARKET:
            held = order.price * (order.quantity - cum_quantity) * k
        else:
            held = held_before - paid

        paid_funds = account.funds[paid_asset]  # something is held
        received_funds = account.funds.get(received_asset) or account.funds_in(received_asset)
        paid_before = paid_funds.available + paid_funds.held
        received_before = received_funds.available + received_funds.held
        paid_funds.pay(paid, held_before - paid - held)
        received_funds.available += received - fee
        account.changed_time = now
        received_after = received_funds.available + received_funds.held
        if received_after > BALANCE_UNITS_MAX:
            # No more than the supply is there. For a moment an account may have twice what it trades with
            # itself: it receives as the taker before it pays as the maker. So does one of which its shard
            # hears late what it gave.
            raise InvariantBroken(
                f"account {account.account_id}: {received_asset} exceeds what a balance can hold"
            )
        paid_totals, received_totals = self.totals[paid_asset], self.totals[received_asset]
        paid_totals.funds += paid_funds.available + paid_funds.held - paid_before
        received_totals.funds += received_after - received_before
        paid_totals.held -= held_before - held
        paid_totals.settled -= paid
        received_totals.settled += received
        received_totals.fees += fee

        execution_count = self.execution_count = self.execution_count + 1
        order = make_order(
            order.order_id,
            order.account_id,
            order.client_order_id,
            order.market,
            order.side,
            order.order_type,
            order.time_in_force,
            order.price,
            cum_quantity if filled else order.quantity,
            order.quote_quantity,
            order.self_trade_prevention,
            FILLED if filled else PARTIALLY_FILLED,
            cum_quantity,
            cum_quote,
            held,
            order.accepted_time,
            now,
            execution_count * SHARD_COUNT_MAX + self.index,
            order.version + 1,
            None,
            order.terms,
        )
        self._events.append(
            make_order_filled(
                now,
                order,
                trade_id,
                price,
                quantity,
                quote,
                liquidity,
                fee,
                received_asset,
                (
                    make_balance(paid_asset, paid_funds.available, paid_funds.held),
                    make_balance(received_asset, received_funds.available, received_funds.held),
                ),
            )
        )
        if filled:
            self._closed.append(order)
            self._forget_open(account, order, market)
        else:
            account.open_orders[order.market][order.order_id] = order
        return order, make_fill_report(trade_id, price, quantity, fee, received_asset)

    def _resting_closed(self, closed: RestingClosed) -> None:
        account, order = self._open_order(closed.account_id, closed.market, closed.order_id)
        if closed.expired_in_match:
            self._close_prevented(account, order, closed.prevented, closed.taker_order_id)
            return
        if closed.reason is not CloseReason.CANCELED_BY_OWNER:
            self._close(account, order, EXPIRED, closed.reason)
            return
        order = self._close(account, order, CANCELED, CloseReason.CANCELED_BY_OWNER, closed.cancel_id)
        self._cancel_answered(closed, order)

    def _cancel_missed(self, missed: CancelMissed) -> None:
        if missed.reply_to:  # nobody waits for what an operator cancels
            self._cancel_answered(missed, None)

    def _close(
        self,
        account: Account,
        order: OrderState,
        status: OrderStatus,
        reason: CloseReason,
        cancel_id: str = "",
        course: OrderCourse | None = None,
        prevented: Prevented | None = None,
        counter_order_id: OrderId = _NO_ORDER,
    ) -> OrderState:
        """Release what the order still holds and close it."""
        market = self.market_map.by_symbol[order.market]
        asset = market.quote if order.side is BUY else market.base
        funds = account.funds[asset]
        funds.release(order.held)
        account.changed_time = self.time
        self.totals[asset].held -= order.held
        quantity = order.cum_quantity if order.quote_quantity else order.quantity
        order = self._replace(order, status, quantity, order.cum_quantity, order.cum_quote, 0, reason, course)
        balance = make_balance(asset, funds.available, funds.held)
        self._events.append(
            OrderClosed(self.time, order, reason, (balance,), cancel_id, prevented, counter_order_id)
        )
        self._closed.append(order)
        self._forget_open(account, order, market)
        return order

    def _forget_open(self, account: Account, order: OrderState, market: Market) -> None:
        """Take a closed order out of the state; its client order id may be used again."""
        self.open_order_count -= 1
        orders = account.open_orders[order.market]
        del orders[order.order_id]
        if not orders:
            del account.open_orders[order.market]
        del account.client_order_ids[order.client_order_id]
        # Another open order of the account holds something, so what is empty belongs to none.
        account.forget_if_empty(market.base)
        account.forget_if_empty(market.quote)

    def _replace(
        self,
        order: OrderState,
        status: OrderStatus,
        quantity: int,
        cum_quantity: int,
        cum_quote: int,
        held: int,
        close_reason: CloseReason | None = None,
        course: OrderCourse | None = None,
    ) -> OrderState:
        self.execution_count += 1
        return make_order(
            order.order_id,
            order.account_id,
            order.client_order_id,
            order.market,
            order.side,
            order.order_type,
            order.time_in_force,
            order.price,
            quantity,
            order.quote_quantity,
            order.self_trade_prevention,
            status,
            cum_quantity,
            cum_quote,
            held,
            order.accepted_time,
            self.time,
            self.execution_count * SHARD_COUNT_MAX + self.index,
            order.version + 1,
            close_reason,
            order.terms,
            course,
        )

    # ------------------------------------------------------------------ the account's half: canceling

    def _cancel_order(self, command: CancelOrder) -> None:
        order = self._find_open(command.account_id, command.market, command.order_id, command.client_order_id)
        if order is None:
            self._refuse(command.reply_to, command.request_id, RejectReason.UNKNOWN_ORDER)
        elif self._not_trading and self._is_halted(command.market):
            self._refuse(command.reply_to, command.request_id, RejectReason.MARKET_CLOSED)
        else:
            self._request_cancel(order, command)

    def _is_halted(self, market: str) -> bool:
        return self._not_trading.get(market) is MarketStatus.HALTED

    def _cancel_all_orders(self, command: CancelAllOrders) -> None:
        account = self.accounts.get(command.account_id)
        orders = list(account.open_orders.get(command.market, {}).values()) if account is not None else []
        if not orders:
            self._refuse(command.reply_to, command.request_id, RejectReason.UNKNOWN_ORDER)
            return
        if self._is_halted(command.market):
            self._refuse(command.reply_to, command.request_id, RejectReason.MARKET_CLOSED)
            return
        self.cancel_alls[command.reply_to, command.request_id] = CancelAllRequest(len(orders))
        for order in orders:
            self._request_cancel(order, command)

    def _request_cancel(self, order: OrderState, command: CancelOrder | CancelAllOrders) -> None:
        self._send(
            self.market_map.shards[order.market],
            CancelResting(
                order.order_id,
                order.account_id,
                order.market,
                command.request_id,
                command.reply_to,
                command.cancel_id,
            ),
        )

    def _cancel_answered(self, answer: RestingClosed | CancelMissed, order: OrderState | None) -> None:
        """Tell who asked that the order is canceled, or (None) that there was nothing to cancel any more."""
        request = self.cancel_alls.get((answer.reply_to, answer.request_id)) if self.cancel_alls else None
        if request is not None:
            self._one_of_several_answered(request, answer, order)
        elif order is None:
            self._refuse(answer.reply_to, answer.request_id, RejectReason.UNKNOWN_ORDER)
        else:
            self._reply(answer.reply_to, OrderReply(answer.request_id, self.time, order))

    def _one_of_several_answered(
        self, request: CancelAllRequest, answer: RestingClosed | CancelMissed, order: OrderState | None
    ) -> None:
        request.waiting -= 1
        if order is not None:
            request.orders.append(order)
        if request.waiting:
            return
        del self.cancel_alls[answer.reply_to, answer.request_id]
        if request.orders:
            self._reply(answer.reply_to, OrdersReply(answer.request_id, self.time, tuple(request.orders)))
        else:
            self._refuse(answer.reply_to, answer.request_id, RejectReason.UNKNOWN_ORDER)

    # ------------------------------------------------------------------ deposits and withdrawals

    def _transfer(self, command: Deposit | Withdraw) -> None:
        """Bring money in or take it out; a repeat of a transfer that the shard remembers changes nothing."""
        if command.idempotency_key and not self._is_first_of_its_key(command):
            return
        account = self.accounts.get(command.account_id)
        key = transfer_key(type(command).__name__, command.account_id, command.transfer_id)
        first = self.transfers.find(key, self.time)
        reason = self._reason_not_to_repeat(command, first)
        if reason is None and first is None:
            reason = self._reason_not_to_transfer(command, account)
        if reason is not None:
            self._refuse_keyed(command, reason)
            return
        if first is None:
            if account is None:
                account = self.accounts[command.account_id] = Account(command.account_id, self.time)
            self.transfers.remember(Transfer(key, self.time, command.asset, command.amount))
            self._move_funds(command, account)
        nothing = Balance(command.asset, AssetUnits(0), AssetUnits(0))
        balance = account.balance(command.asset) if account is not None else nothing
        reply = FundsReply(command.request_id, self.time, (balance,))
        self._reply_keyed(command.account_id, command.idempotency_key, command.reply_to, reply)

    def _reason_not_to_repeat(
        self, command: Deposit | Withdraw | WithdrawFees, first: Transfer | None
    ) -> RejectReason | None:
        """Return what is wrong with a transfer in the light of `first`, which had the same id."""
        if command.asset not in self.totals:
            return RejectReason.UNKNOWN_ASSET
        if first is not None and (first.asset, first.amount) != (command.asset, command.amount):
            return RejectReason.TRANSFER_ID_REUSED
        return None

    def _reason_not_to_transfer(
        self, command: Deposit | Withdraw, account: Account | None
    ) -> RejectReason | None:
        if command.amount <= 0:
            return RejectReason.AMOUNT_OUT_OF_RANGE
        funds = account.funds.get(command.asset) if account is not None else None
        available = funds.available if funds is not None else 0
        if isinstance(command, Deposit):
            outstanding = self.totals[command.asset].outstanding + command.amount
            too_much = outstanding > self.market_map.supply_share(command.asset)
            return RejectReason.AMOUNT_OUT_OF_RANGE if too_much else None
        if account is not None and account.is_frozen:
            return RejectReason.ACCOUNT_FROZEN
        return RejectReason.INSUFFICIENT_BALANCE if available < command.amount else None

    def _move_funds(self, command: Deposit | Withdraw, account: Account) -> None:
        funds, totals = account.funds_in(command.asset), self.totals[command.asset]
        before = funds.available + funds.held
        moved: type[FundsDeposited | FundsWithdrawn]
        if isinstance(command, Deposit):
            funds.available += command.amount
            totals.deposited += command.amount
            if self._signer is not None:
                self.authority.count(self._signer, command, self.time)
            moved = FundsDeposited
        else:
            funds.available -= command.amount
            totals.withdrawn += command.amount
            moved = FundsWithdrawn
        totals.funds += funds.available + funds.held - before
        account.changed_time = self.time
        balances = (account.balance(command.asset),)
        account.forget_if_empty(command.asset)
        self._events.append(
            moved(self.time, command.account_id, command.asset, command.amount, command.transfer_id, balances)
        )

    # ------------------------------------------------------------------ the operator's commands

    def _withdraw_fees(self, command: WithdrawFees) -> None:
        """Take fees out of the exchange, once per transfer id."""
        asset, amount = command.asset, command.amount
        key = transfer_key("WithdrawFees", 0, command.transfer_id)
        first = self.transfers.find(key, self.time)
        reason = self._reason_not_to_repeat(command, first)
        if reason is None and first is None and amount <= 0:
            reason = RejectReason.AMOUNT_OUT_OF_RANGE
        if reason is None and first is None and amount > self.totals[asset].fees:
            reason = RejectReason.INSUFFICIENT_BALANCE
        if reason is not None:
            self._refuse(command.reply_to, command.request_id, reason)
            return
        totals = self.totals[asset]
        if first is None:
            self.transfers.remember(Transfer(key, self.time, asset, amount))
            totals.fees -= amount
            totals.withdrawn += amount
            self._events.append(FeesWithdrawn(self.time, asset, amount, command.transfer_id))
        left = Balance(asset, AssetUnits(totals.fees), AssetUnits(0))
        self._reply(command.reply_to, FundsReply(command.request_id, self.time, (left,)))

    def _close_account(self, command: CloseAccount) -> None:
        """Forget an account that has nothing.

        What still waits for another shard on its behalf needs no account.
        """
        account = self.accounts.get(command.account_id)
        if account is not None and account.is_in_use(self.time):
            self._refuse(command.reply_to, command.request_id, RejectReason.ACCOUNT_IN_USE)
            return
        if account is not None:
            del self.accounts[command.account_id]
            self._events.append(AccountClosed(self.time, command.account_id))
        self._reply(command.reply_to, FundsReply(command.request_id, self.time, ()))

    def _limit_account(self, command: LimitAccount) -> None:
        account, limits = self.accounts.get(command.account_id), command.limits
        known = account.limits if account is not None else None
        if limits.version != (known.version if known is not None else 0) + 1:
            self._refuse(command.reply_to, command.request_id, RejectReason.CONFIG_OUTDATED)
            return
        if account is None:
            account = self.accounts[command.account_id] = Account(command.account_id, self.time)
        account.limits = limits
        account.order_counts = account.order_counts or OrderCounts()
        self._events.append(AccountLimited(self.time, command.account_id, limits))
        self._reply(command.reply_to, Configured(command.request_id, self.time, limits.version))

    def _cancel_orders(self, command: CancelOrders) -> None:
        """Begin to cancel the orders of an account, or of a market of this shard."""
        account_id, market = command.account_id, command.market
        if account_id:
            account = self.accounts.get(account_id)
            by_market = account.open_orders if account is not None else {}
            orders = len(by_market.get(market, ())) if market else sum(map(len, by_market.values()))
            last = OrderId(self.order_count * SHARD_COUNT_MAX + self.index)
            drain = Drain(account_id, market, CloseReason.CANCELED_BY_OPERATOR, up_to=last)
        elif market not in self.markets:
            self._refuse(command.reply_to, command.request_id, RejectReason.UNKNOWN_MARKET)
            return
        elif market not in self._not_trading:
            self._refuse(command.reply_to, command.request_id, RejectReason.MARKET_OPEN)
            return
        else:
            orders = len(self.markets[market].book.orders)
            drain = Drain(account_id, market, CloseReason.CANCELED_BY_OPERATOR)
        if orders:
            self.drains.append(drain)
        self._reply(command.reply_to, Canceling(command.request_id, self.time, orders))

    def _drain(self) -> None:
        """Cancel some of the orders that are to be canceled; what is left goes on with the next command."""
        room = self.config.drained_per_command if self.config is not None else 1
        while self.drains and room:
            drain = self.drains.popleft()
            if drain.account_id:
                rest, room = self._drain_account(drain, room)
                if rest is not None:
                    self.drains.appendleft(rest)
                continue
            closed = self.markets[drain.market].drain(room, drain.reason, self.time, self._events)
            room -= len(closed)
            for message in closed:
                self._send(self.slots[message.account_id % ACCOUNT_SLOTS], message)
            if self.markets[drain.market].book.orders:
                self.drains.appendleft(drain)
            elif self.market_configs[drain.market].status is MarketStatus.DELISTING:
                config = self.market_configs[drain.market]
                self._change_market(
                    msgspec.structs.replace(config, status=MarketStatus.DELISTED, version=config.version + 1)
                )

    def _drain_account(self, drain: Drain, room: int) -> tuple[Drain | None, int]:
        """Return what is left of a drain (None: nothing), and the room that is left."""
        account = self.accounts.get(drain.account_id)
        by_market = account.open_orders if account is not None else {}
        chosen = [by_market.get(drain.market, {})] if drain.market else list(by_market.values())
        wanted = sorted(
            (
                order
                for orders in chosen
                for order in orders.values()
                if drain.after < order.order_id <= drain.up_to
            ),
            key=lambda order: order.order_id,
        )
        for order in wanted[:room]:
            self._send(
                self.market_map.shards[order.market],
                CancelResting(order.order_id, order.account_id, order.market, 0, "", reason=drain.reason),
            )
        if len(wanted) <= room:
            return None, room - len(wanted)
        return msgspec.structs.replace(drain, after=wanted[room - 1].order_id), 0

    # ------------------------------------------------------------------ looking

    def _find_open(
        self, account_id: AccountId, market: str, order_id: OrderId, client_order_id: str
    ) -> OrderState | None:
        account = self.accounts.get(account_id)
        if account is None:
            return None
        if client_order_id:
            placed = account.client_order_ids.get(client_order_id)
            if placed is None or order_id not in (0, placed.order_id):
                return None
            order_id = placed.order_id
        return account.open_orders.get(market, {}).get(order_id)

    def answer(self, query: Query, time: TimeMs) -> tuple[str, Reply]:
        """Return (reply_to, reply). Changes nothing."""
        reply: Reply
        match query:
            case BalancesQuery(request_id, _, account_id):
                account = self.accounts.get(account_id)
                balances = account.balances() if account is not None else ()
                changed_time = account.changed_time if account is not None else TimeMs(0)
                reply = FundsReply(
                    request_id, changed_time, balances, account.limits if account is not None else None
                )
            case OrderQuery(request_id, _, account_id, market, order_id, client_order_id):
                order = self._find_open(account_id, market, order_id, client_order_id)
                unknown = Refused(request_id, time, RejectReason.UNKNOWN_ORDER)
                reply = OrderReply(request_id, time, order) if order is not None else unknown
            case OpenOrdersQuery(request_id, _, account_id, market):
                account = self.accounts.get(account_id)
                by_market = account.open_orders if account is not None else {}
                chosen = [by_market.get(market, {})] if market else list(by_market.values())
                orders = [
                    order for each in chosen for order in each.values() if order.status is not IN_FLIGHT
                ]
                orders.sort(key=lambda order: order.order_id)
                reply = OrdersReply(request_id, time, tuple(orders))
            case ConfigQuery(request_id, _):
                configs = tuple(config for _, config in sorted(self.market_configs.items()))
                reply = ConfigReply(request_id, time, self.config, configs)
            case AuditQuery(request_id, _):
                reply = AuditReply(
                    request_id,
                    time,
                    tuple(stored_audit_row(row) for row in self.books()),
                    self.open_order_count,
                    self.command_count,
                    digest=self.digest(),
                    received=tuple(self.received.items()),
                    sent=tuple(self.sent.items()),
                )
        return query.reply_to, reply

    def books(self) -> list[AuditRow]:
        """Return, per asset, (asset, available, held, fees, deposited, withdrawn, settled), as they are kept:
        O(assets).

        Whether the accounts have that much `check_invariants` asks, which every snapshot's process does.
        """
        return [
            (
                asset,
                each.funds - each.held,
                each.held,
                each.fees,
                each.deposited,
                each.withdrawn,
                each.settled,
            )
            for asset, each in sorted(self.totals.items())
        ]

    def audit(self) -> list[AuditRow]:
        """Return what `books` returns, added up anew: O(accounts × assets)."""
        rows = []
        for asset, totals in sorted(self.totals.items()):
            funds = [account.funds[asset] for account in self.accounts.values() if asset in account.funds]
            available, held = sum(each.available for each in funds), sum(each.held for each in funds)
            rows.append(
                (asset, available, held, totals.fees, totals.deposited, totals.withdrawn, totals.settled)
            )
        return rows

    def sequence(self, symbol: str) -> MarketSequence:
        """Return the number of a market's last public event; 0 before it is listed."""
        state = self.markets.get(symbol)
        return MarketSequence(state.sequence if state is not None else 0)

    def depth(self, symbol: str) -> DepthSnapshot:
        """Return the whole book of one of this shard's markets, by price levels.

        Empty before the market is listed.
        """
        state = self.markets.get(symbol)
        if state is None:
            return DepthSnapshot(self.time, symbol, MarketSequence(0), (), ())
        bids, asks = (
            tuple((level.price, QuantityLots(level.quantity)) for level in half.in_priority())
            for half in (state.book.bids, state.book.asks)
        )
        return DepthSnapshot(self.time, symbol, MarketSequence(state.sequence), bids, asks)

    def check_money(self) -> None:
        """Compare what the accounts gained and lost with what came in, went out and was settled.

        Costs nothing worth mentioning.

        Raises:
            InvariantBroken: naming the asset, and how much too much or too little of it there is.
        """
        for asset, totals in self.totals.items():
            if difference := totals.difference():
                raise InvariantBroken(
                    f"{asset}: money is not conserved: the accounts have {totals.funds} and the fees are "
                    f"{totals.fees}, {difference:+d} against deposited {totals.deposited} - withdrawn "
                    f"{totals.withdrawn} + settled {totals.settled}"
                )
            if self.shard_count == 1 and totals.settled:
                raise InvariantBroken(
                    f"{asset}: money is not conserved: the two sides of a trade differ by {totals.settled}"
                )

    def check_invariants(self) -> None:
        """Add everything up anew.

        Raises:
            InvariantBroken: naming what is not as it must always be.
        """
        self.check_money()
        for asset, available, held, fees, deposited, withdrawn, settled in self.audit():
            if available + held + fees != deposited - withdrawn + settled:
                raise InvariantBroken(
                    f"{asset}: available {available} + held {held} + fees {fees} is not "
                    f"deposited {deposited} - withdrawn {withdrawn} + settled {settled}"
                )
            kept = self.totals[asset]
            if (kept.held, kept.funds) != (held, available + held):
                raise InvariantBroken(
                    f"{asset}: the books say held {kept.held} of {kept.funds}, the accounts have held {held} "
                    f"of {available + held}"
                )
        open_orders = sum(
            len(orders) for each in self.accounts.values() for orders in each.open_orders.values()
        )
        if open_orders != self.open_order_count:
            raise InvariantBroken(
                f"{self.open_order_count} open orders are counted, the accounts have {open_orders}"
            )
        in_flight: Counter[int] = Counter()
        for account in self.accounts.values():
            for symbol, orders in account.open_orders.items():
                in_flight[self.market_map.shards[symbol]] += sum(
                    order.status is IN_FLIGHT for order in orders.values()
                )
        if +in_flight != +Counter(self.in_flight):
            raise InvariantBroken(
                f"{dict(self.in_flight)} orders are counted in flight, the accounts have {dict(in_flight)}"
            )
        for account in self.accounts.values():
            holds: dict[str, int] = {}
            if len(account.client_order_ids) != sum(map(len, account.open_orders.values())):
                raise InvariantBroken(
                    f"account {account.account_id}: a client order id has no open order, or two have it"
                )
            for symbol, orders in account.open_orders.items():
                market = self.market_map.by_symbol[symbol]
                for order in orders.values():
                    asset = market.quote if order.side is BUY else market.base
                    holds[asset] = holds.get(asset, 0) + order.held
            for asset, funds in account.funds.items():
                if funds.held != holds.get(asset, 0) or min(funds.held, funds.available) < 0:
                    raise InvariantBroken(
                        f"account {account.account_id}: held {asset} is {funds.held}, its orders hold "
                        f"{holds.get(asset, 0)}"
                    )
        for symbol, state in self.markets.items():
            bid, ask = state.book.bids.best, state.book.asks.best
            if bid is not None and ask is not None and bid.price >= ask.price:
                raise InvariantBroken(f"{symbol}: the book is crossed, {bid.price} >= {ask.price}")


def _reason_to_expire(order: OrderState, outcome: TakerOutcome) -> CloseReason:
    """Return why an order that may not rest has something left."""
    if outcome.limit_reached:
        return CloseReason.TOO_MANY_MATCHES
    if order.order_type is MARKET:
        too_dear = outcome.price_range_exceeded
        return CloseReason.PRICE_RANGE_EXCEEDED if too_dear else CloseReason.INSUFFICIENT_LIQUIDITY
    return CloseReason.UNFILLED_FOK if order.time_in_force is FOK else CloseReason.UNFILLED_IOC
