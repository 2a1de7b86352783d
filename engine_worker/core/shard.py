"""One shard: the accounts hashed to it and the books of its markets, as a deterministic state machine.

An order's life has two halves, which may be on two shards. The account's half checks, holds the funds and
gives the order its number; the market's half matches; the account's half settles what came of it. They speak
only by messages, also on one shard (messages.py, docs/decisions/0001-two-halves-of-an-order.md).

This module is the dispatch: which part of the shard handles which command and which message. The parts share
one state (shard_state.py).

Given the same commands with the same times, every shard produces the same state, events, replies and
messages: nothing here reads a clock, the environment or a random source, or iterates over anything unordered.
"""

from collections.abc import Callable
from typing import Any, Final

from engine_worker.core import conservation as audit
from engine_worker.core.account_half import AccountHalf
from engine_worker.core.authority import ROLES
from engine_worker.core.configuration import Configuration
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.journal import Journal, Output
from engine_worker.core.market_half import MarketHalf
from engine_worker.core.messages import Messages
from engine_worker.core.operator_cancels import OperatorCancels
from engine_worker.core.operator_commands import OperatorCommands
from engine_worker.core.queries import answer
from engine_worker.core.replies import Replies
from engine_worker.core.shard_state import ShardState
from engine_worker.core.transfers import FundsTransfers
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
    SkipEntry,
    TakerOutcome,
    Tick,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import MarketConfig
from protocol.events import EntrySkipped, TimePassed
from protocol.market import MarketMap
from protocol.market_data import DepthSnapshot
from protocol.orders import RejectReason
from protocol.replies import Query, Refused, Reply
from protocol.units import Sequence as MarketSequence
from protocol.units import TimeMs
from protocol.windows import DEFAULT_WINDOWS, Windows

WRITER_BEHIND_MS_MAX: Final = 1_000
"""So far a writer's clock may be behind, or its entry under way, before it holds the shard's time back."""


class Shard:
    """The state machine. `apply` changes it, `take` returns what came of that, `answer` only looks.

    Its parts share `state`; each command and message is the work of one of them, as `_handlers` says.
    """

    __slots__ = (
        "_handlers",
        "account_half",
        "configuration",
        "funds_transfers",
        "journal",
        "market_half",
        "messages",
        "operator_cancels",
        "operator_commands",
        "replies",
        "state",
    )

    def __init__(self, index: int, market_map: MarketMap, windows: Windows = DEFAULT_WINDOWS) -> None:
        """Make the empty shard number `index`; without markets it is not configured yet."""
        state = self.state = ShardState(index, market_map, windows)
        journal = self.journal = Journal(state)
        messages = self.messages = Messages(state)
        replies = self.replies = Replies(state)
        accounts = self.account_half = AccountHalf(state, messages, replies)
        markets = self.market_half = MarketHalf(state, messages)
        configuration = self.configuration = Configuration(state, messages, replies, journal)
        cancels = self.operator_cancels = OperatorCancels(state, messages, replies, configuration)
        operators = self.operator_commands = OperatorCommands(state, replies)
        transfers = self.funds_transfers = FundsTransfers(state, replies)
        replies.handlers |= {
            PlaceOrder: accounts.place_order,
            CancelOrder: accounts.cancel_order,
            CancelAllOrders: accounts.cancel_all_orders,
            Deposit: transfers.transfer,
            Withdraw: transfers.transfer,
            WithdrawFees: transfers.withdraw_fees,
            ConfigureShard: configuration.configure_shard,
            ConfigureMarket: configuration.configure_market,
            CloseAccount: operators.close_account,
            LimitAccount: operators.limit_account,
            CancelOrders: cancels.cancel_orders,
        }
        messages.handlers |= {
            MatchOrder: markets.match_order,
            CancelResting: markets.cancel_resting,
            TakerOutcome: accounts.taker_outcome,
            MakerFill: accounts.maker_fill,
            RestingClosed: accounts.resting_closed,
            CancelMissed: accounts.cancel_missed,
            KnowMarket: configuration.know_market,
        }
        self._handlers: dict[type, Callable[[Any], None]] = {
            PlaceOrder: replies.apply_once,
            CancelOrder: replies.apply_once,
            CancelAllOrders: replies.apply_once,
            Signed: operators.apply,
            **dict.fromkeys(ROLES, operators.apply),
            Tick: self._tick,
            **messages.handlers,
        }
        """What an entry may hold -> who takes it."""
        for market in market_map.markets:
            configuration.set_market(MarketConfig(market, market_map.shard_of_market(market.symbol)))

    def let_go(self) -> None:
        """Take apart what refers to each other: no collector runs beside the matching.

        The state is not used any more.
        """
        for market in self.state.markets.values():
            market.book.let_go()
        self._handlers.clear()
        self.messages.handlers.clear()
        self.replies.handlers.clear()

    @property
    def waiting_events(self) -> int:
        """How many events the next `take` returns."""
        return len(self.state.events)

    def enter(
        self, entered: TimeMs, written_us: int | None, behind_ms_max: int = WRITER_BEHIND_MS_MAX
    ) -> TimeMs:
        """Return an entry's time: `entered` is by Redis's clock, `written_us` by its writer's.

        The earlier of the two counts, with a second of grace for the writer's, and no time is before the
        last: so neither clock, when it is wrong alone, can move the shard's time from what is right by more
        than that second. Another shard's stamp, its time, has that second in it: with `behind_ms_max` 0 mail
        to and fro adds none.
        """
        state = self.state
        state.entered = entered
        state.is_founding = state.config is None
        if written_us is not None:
            written = written_us // 1_000 + behind_ms_max
            if written < entered:
                entered = written  # type: ignore[assignment]  # to name the unit is a call, and every entry comes by here
        return entered if entered > state.time else state.time

    def apply(self, command: LoggedCommand | ShardMessage, time: TimeMs) -> None:
        """Apply one command, at `time`.

        Raises:
            InvariantBroken: the state is wrong; it must not be used or published.
        """
        state = self.state
        if time < state.time:
            raise InvariantBroken(f"time goes back from {state.time} to {time}")
        state.time = time
        state.command_count += 1
        if time > self.replies.all_kept_until:
            self.replies.drop_old_outcomes()
        self._handlers[type(command)](command)
        # Behind the command, which may begin or end a drain.
        if state.drains:
            self.operator_cancels.drain()
        # Last: the hash is of the state after the command and everything that came with it.
        if state.command_count >= self.journal.hash_due:
            self.journal.hash_state()

    def refuse_unread(self, reply_to: str, request_id: int) -> None:
        """Tell whoever sent a command that is not understood.

        Nothing is remembered of it: the state stays as it is.
        """
        state = self.state
        state.replies.append((reply_to, Refused(request_id, state.time, RejectReason.NOT_UNDERSTOOD)))

    def pass_over(self, skip: SkipEntry, source: int | None = None, last_sequence: int = 0) -> None:
        """Go on behind an entry of which nothing is applied, as an operator said.

        It counts as a command, and no time passes.

        When it has messages, of `source` up to `last_sequence`, they count as received: otherwise the next
        one would be one too many.
        """
        state = self.state
        state.command_count += 1
        if source is not None:
            state.received[source] = max(state.received.get(source, 0), last_sequence)
        state.events.append(EntrySkipped(state.time, skip.stream_id, skip.operator, skip.reason))
        if state.command_count >= self.journal.hash_due:
            self.journal.hash_state()

    def take(self) -> Output:
        """Return what was produced since the last call.

        Raises:
            InvariantBroken: what came of it is not worth what went in.
        """
        # Before anything of it can leave (docs/decisions/0013-state-hash-and-halt.md).
        self.check_money()
        return self.journal.take()

    def answer(self, query: Query, time: TimeMs) -> tuple[str, Reply]:
        """Return (reply_to, reply). Changes nothing."""
        return answer(self.state, query, time)

    def sequence(self, symbol: str) -> MarketSequence:
        """Return the number of a market's last public event; 0 before it is listed."""
        return self.market_half.sequence(symbol)

    def depth(self, symbol: str) -> DepthSnapshot:
        """Return the whole book of one of this shard's markets, by price levels.

        Empty before the market is listed.
        """
        return self.market_half.depth(symbol)

    def digest(self) -> str:
        """Return what a `StateHashed` says of the state, in hex: see `audit.digest`."""
        return audit.digest(self.state)

    def check_money(self) -> None:
        """Compare what came in, went out and was settled with what there is. O(assets).

        Raises:
            InvariantBroken: it does not add up.
        """
        audit.check_money(self.state)

    def check_invariants(self) -> None:
        """Add everything up anew. O(state).

        Raises:
            InvariantBroken: naming what is not as it must always be.
        """
        audit.check_invariants(self.state)

    def _tick(self, _: Tick) -> None:
        self.state.events.append(TimePassed(self.state.time))
