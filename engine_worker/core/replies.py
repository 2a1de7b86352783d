"""One outcome per request: replies, and the memory of them.

Decision: docs/decisions/0005-client-order-ids.md.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from engine_worker.core.accounts import Account
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.outcomes import (
    FirstOutcome,
    KeyedCommand,
    KeyedRequest,
    KeyedRequests,
    fingerprint_of,
)
from engine_worker.core.shard_state import ShardState
from protocol.commands import CancelAllOrders, CancelOrder, PlaceOrder, SignedBody
from protocol.orders import RejectReason
from protocol.replies import Refused, Reply
from protocol.units import AccountId, TimeMs
from protocol.windows import Windows

DROPS_PER_COMMAND: Final = 64
"""Outcomes, and transfers, that may be dropped per command, some 10 µs.

A command adds one, so this catches up soon after a burst.
"""


class Replies:
    """Answers requests, and handles each of them once."""

    __slots__ = ("_reply_to", "_request_id", "_state", "all_kept_until", "handlers")

    def __init__(self, state: ShardState) -> None:
        self._state = state
        self.handlers: dict[type, Callable[[Any], None]] = {}
        """Who handles which command."""
        self._reply_to = ""
        self._request_id: int | None = None
        """Of the command that is being handled, until it is answered."""
        self.all_kept_until = TimeMs(0)
        """Up to then no outcome is too old; nor is any that is remembered meanwhile."""

    def apply_once(
        self, command: PlaceOrder | CancelOrder | CancelAllOrders | SignedBody, deadline_ms: int | None = None
    ) -> None:
        """Handle a command, unless it is a repetition: then its first outcome is its answer.

        Of an operator's it must be said that it has no deadline.
        """
        state = self._state
        if deadline_ms is None:
            deadline_ms = command.deadline_ms  # type: ignore[union-attr]  # a client's command
        reply_to, request_id = command.reply_to, command.request_id
        if reply_to and request_id:
            channel = state.requests.by_channel.get(reply_to)
            if channel is not None and request_id in channel:
                first = state.requests.find(reply_to, request_id, state.time)
                if first is not None:
                    state.replies.append((reply_to, first))
                    return
            if state.requests_under_way and (reply_to, request_id) in state.requests_under_way:
                return
            # From here on `reply` knows that this request is answered for the first time.
            self._reply_to, self._request_id = reply_to, request_id
        if deadline_ms and deadline_ms < state.entered:
            # Before its idempotency key is looked at: whoever comes with that again in time wants it done.
            self.refuse(reply_to, request_id, RejectReason.TOO_LATE)
        else:
            self.handlers[type(command)](command)
        if self._request_id is not None:  # the market's half is on another shard
            state.requests_under_way[reply_to, request_id] = None
            self._request_id = None

    def is_first_of_its_key(self, command: KeyedCommand) -> bool:
        """Return whether the command is to be handled.

        Answer it, or let it wait for its first outcome, if not.
        """
        state = self._state
        account = state.accounts.get(command.account_id)
        if account is None:  # it has nothing, so it will be refused, and that is an outcome, too
            account = state.accounts[command.account_id] = Account(command.account_id, state.time)
        keyed, key = account.keyed, command.idempotency_key
        if keyed is None:
            keyed = account.keyed = KeyedRequests(state.windows.key_ms)
        fingerprint = fingerprint_of(command)
        first, waiting = keyed.outcomes.find(key, state.time), keyed.under_way.get(key)
        known = first if first is not None else waiting
        if known is not None and known.fingerprint != fingerprint:
            self.refuse(command.reply_to, command.request_id, RejectReason.IDEMPOTENCY_KEY_REUSED)
        elif first is not None:
            self.reply(command.reply_to, msgspec.structs.replace(first.reply, request_id=command.request_id))
        elif waiting is not None:
            waiting.repeated_by.append((command.reply_to, command.request_id))
        elif not keyed.has_room(state.time, state.windows.keys_max):
            self.refuse(command.reply_to, command.request_id, RejectReason.TOO_MANY_IDEMPOTENCY_KEYS)
        else:
            keyed.under_way[key] = KeyedRequest(fingerprint)
            return True
        return False

    def set_windows(self, windows: Windows) -> None:
        """Remember outcomes and transfers for so long from now on."""
        state = self._state
        state.windows = windows
        # The shorter ones may be too old at once.
        self.all_kept_until = TimeMs(0)
        state.requests.window_ms = windows.request_ms
        state.transfers.window_ms = windows.transfer_ms
        for account in state.accounts.values():
            if account.keyed is not None:
                account.keyed.outcomes.window_ms = windows.key_ms

    def reply(self, reply_to: str, reply: Reply) -> None:
        """Answer a command, and remember the answer."""
        state = self._state
        state.replies.append((reply_to, reply))
        if reply.request_id == self._request_id and reply_to == self._reply_to:
            self._request_id = None  # as nearly always: a command that is answered at once
        elif state.requests_under_way:
            request = (reply_to, reply.request_id)
            if request not in state.requests_under_way:
                return
            del state.requests_under_way[request]
        else:
            return
        state.requests.remember(state.time, reply_to, reply)

    def reply_keyed(self, account_id: AccountId, key: str, reply_to: str, reply: Reply) -> None:
        """Answer a command that may have an idempotency key, and whoever has repeated it meanwhile."""
        self.reply(reply_to, reply)
        if key:
            self.keep_outcome(account_id, key, reply)

    def keep_outcome(self, account_id: AccountId, key: str, reply: Reply) -> None:
        """Remember a request's outcome under its idempotency key, and answer whoever has repeated it."""
        state = self._state
        keyed = state.accounts[account_id].keyed
        if keyed is None or key not in keyed.under_way:
            raise InvariantBroken(f"account {account_id}: an idempotency key has an outcome, but no request")
        # Remembered before repetitions are answered, which are requests with an outcome of their own.
        request = keyed.under_way.pop(key)
        keyed.outcomes.remember(FirstOutcome(key, state.time, reply, request.fingerprint))
        state.key_expiries.append((state.time, account_id))
        for repeated_to, request_id in request.repeated_by:
            self.reply(repeated_to, msgspec.structs.replace(reply, request_id=request_id))

    def drop_old_outcomes(self) -> None:
        """Drop a few outcomes that are too old; whether one still counts does not depend on it."""
        state = self._state
        now, expiries = state.time, state.key_expiries
        oldest_first = state.requests.oldest_first
        if oldest_first and now - oldest_first[0].time > state.windows.request_ms:
            state.requests.drop_old(now, DROPS_PER_COMMAND)
        transfers = state.transfers.oldest_first
        if transfers and now - transfers[0].time > state.windows.transfer_ms:
            state.transfers.drop_old(now, DROPS_PER_COMMAND)
        for _ in range(DROPS_PER_COMMAND):
            if not expiries or now - expiries[0][0] <= state.windows.key_ms:
                break
            account = state.accounts.get(expiries.popleft()[1])
            if account is not None and account.keyed is not None:  # it may have been closed since
                account.keyed.outcomes.drop_old(now, 1)
                if not account.keyed.outcomes.oldest_first and not account.keyed.under_way:
                    account.keyed = None
        windows = state.windows
        self.all_kept_until = TimeMs(
            min(
                (oldest_first[0].time if oldest_first else now) + windows.request_ms,
                (transfers[0].time if transfers else now) + windows.transfer_ms,
                (expiries[0][0] if expiries else now) + windows.key_ms,
            )
        )

    def refuse(self, reply_to: str, request_id: int, reason: RejectReason) -> None:
        """Answer a command that it is refused, and remember that."""
        self.reply(reply_to, Refused(request_id, self._state.time, reason))

    def refuse_for_now(self, command: PlaceOrder, account: Account, reason: RejectReason) -> None:
        """Refuse what may be asked again later with the same idempotency key."""
        if command.idempotency_key and account.keyed is not None:
            del account.keyed.under_way[command.idempotency_key]
            if not account.keyed.under_way and not account.keyed.outcomes.oldest_first:
                account.keyed = None
        self.refuse(command.reply_to, command.request_id, reason)

    def refuse_keyed(self, command: KeyedCommand, reason: RejectReason) -> None:
        """Refuse a command that may have an idempotency key; a repetition is refused as well."""
        refused = Refused(command.request_id, self._state.time, reason)
        self.reply_keyed(command.account_id, command.idempotency_key, command.reply_to, refused)
