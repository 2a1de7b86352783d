"""Deposits, withdrawals and fees: each once per transfer id.

Decision: docs/decisions/0004-money.md.
"""

from engine_worker.core.accounts import Account
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.outcomes import Transfer, transfer_key
from engine_worker.core.replies import Replies
from engine_worker.core.shard_state import ShardState
from protocol.commands import Deposit, Withdraw, WithdrawFees
from protocol.events import FeesWithdrawn, FundsDeposited, FundsWithdrawn
from protocol.orders import Balance, RejectReason
from protocol.replies import FundsReply
from protocol.units import AssetUnits


class FundsTransfers:
    """Handles `Deposit`, `Withdraw` and `WithdrawFees`."""

    __slots__ = ("_replies", "_state")

    def __init__(self, state: ShardState, replies: Replies) -> None:
        self._state = state
        self._replies = replies

    def transfer(self, command: Deposit | Withdraw) -> None:
        """Bring money in or take it out; a repeat of a transfer that the shard remembers changes nothing."""
        state = self._state
        if command.idempotency_key and not self._replies.is_first_of_its_key(command):
            return
        account = state.accounts.get(command.account_id)
        key = transfer_key(type(command).__name__, command.account_id, command.transfer_id)
        first = state.transfers.find(key, state.time)
        reason = self._reason_not_to_repeat(command, first)
        if reason is None and first is None:
            reason = self._reason_not_to_transfer(command, account)
        if reason is not None:
            self._replies.refuse_keyed(command, reason)
            return
        if first is None:
            if account is None:
                account = state.accounts[command.account_id] = Account(command.account_id, state.time)
            state.transfers.remember(Transfer(key, state.time, command.asset, command.amount))
            self._move_funds(command, account)
        nothing = Balance(command.asset, AssetUnits(0), AssetUnits(0))
        balance = account.balance(command.asset) if account is not None else nothing
        reply = FundsReply(command.request_id, state.time, (balance,))
        self._replies.reply_keyed(command.account_id, command.idempotency_key, command.reply_to, reply)

    def _reason_not_to_repeat(
        self, command: Deposit | Withdraw | WithdrawFees, first: Transfer | None
    ) -> RejectReason | None:
        """Return what is wrong with a transfer in the light of `first`, which had the same id."""
        if command.asset not in self._state.totals:
            return RejectReason.UNKNOWN_ASSET
        if first is not None and (first.asset, first.amount) != (command.asset, command.amount):
            return RejectReason.TRANSFER_ID_REUSED
        return None

    def _reason_not_to_transfer(
        self, command: Deposit | Withdraw, account: Account | None
    ) -> RejectReason | None:
        state = self._state
        if command.amount <= 0:
            return RejectReason.AMOUNT_OUT_OF_RANGE
        funds = account.funds.get(command.asset) if account is not None else None
        available = funds.available if funds is not None else 0
        if isinstance(command, Deposit):
            outstanding = state.totals[command.asset].outstanding + command.amount
            too_much = outstanding > state.market_map.supply_share(command.asset)
            return RejectReason.AMOUNT_OUT_OF_RANGE if too_much else None
        if account is not None and account.is_frozen:
            return RejectReason.ACCOUNT_FROZEN
        return RejectReason.INSUFFICIENT_BALANCE if available < command.amount else None

    def _move_funds(self, command: Deposit | Withdraw, account: Account) -> None:
        state = self._state
        funds, totals = account.funds_in(command.asset), state.totals[command.asset]
        before = funds.available + funds.held  # measured, as in `AccountHalf._exchange`
        moved: type[FundsDeposited | FundsWithdrawn]
        if isinstance(command, Deposit):
            funds.available += command.amount
            totals.deposited += command.amount
            if state.signer is not None:
                state.authority.count(state.signer, command, state.time)
            moved = FundsDeposited
        else:
            funds.available -= command.amount
            totals.withdrawn += command.amount
            moved = FundsWithdrawn
            if funds.available < 0:
                raise InvariantBroken(
                    f"available is {funds.available} after a withdrawal of {command.amount}"
                )
        totals.funds += funds.available + funds.held - before
        account.changed_time = state.time
        balances = (account.balance(command.asset),)
        # After the balance has been read, which an event tells also when it is zero.
        account.forget_empty(command.asset)
        state.events.append(
            moved(
                state.time, command.account_id, command.asset, command.amount, command.transfer_id, balances
            )
        )

    def withdraw_fees(self, command: WithdrawFees) -> None:
        """Take fees out of the exchange, once per transfer id."""
        state = self._state
        asset, amount = command.asset, command.amount
        key = transfer_key("WithdrawFees", 0, command.transfer_id)
        first = state.transfers.find(key, state.time)
        reason = self._reason_not_to_repeat(command, first)
        if reason is None and first is None and amount <= 0:
            reason = RejectReason.AMOUNT_OUT_OF_RANGE
        if reason is None and first is None and amount > state.totals[asset].fees:
            reason = RejectReason.INSUFFICIENT_BALANCE
        if reason is not None:
            self._replies.refuse(command.reply_to, command.request_id, reason)
            return
        totals = state.totals[asset]
        if first is None:
            assert totals.fees >= amount, "refused above"
            state.transfers.remember(Transfer(key, state.time, asset, amount))
            totals.fees -= amount
            totals.withdrawn += amount
            state.events.append(FeesWithdrawn(state.time, asset, amount, command.transfer_id))
        left = Balance(asset, AssetUnits(totals.fees), AssetUnits(0))
        self._replies.reply(command.reply_to, FundsReply(command.request_id, state.time, (left,)))
