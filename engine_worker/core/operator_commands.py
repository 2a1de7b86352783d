"""What operators and treasurers say to a shard: who may, and the commands about accounts.

Commands that configure are in configuration.py, those that move money in transfers.py.
"""

from engine_worker.core.accounts import Account, OrderCounts
from engine_worker.core.replies import Replies
from engine_worker.core.shard_state import ShardState
from protocol.commands import CloseAccount, LimitAccount, Signed, SignedBody
from protocol.events import AccountClosed, AccountLimited
from protocol.orders import RejectReason
from protocol.replies import Configured, FundsReply, Refused
from protocol.signing import decode_signed_body


class OperatorCommands:
    """Authorizes the commands that need a signature, and handles those about accounts and their orders."""

    __slots__ = ("_replies", "_state")

    def __init__(self, state: ShardState, replies: Replies) -> None:
        self._state = state
        self._replies = replies

    def apply(self, command: Signed | SignedBody) -> None:
        """Handle a command that needs a signature, if it counts."""
        self._state.signer = None
        authorized = self._authorized(command)
        if authorized is not None:
            self._replies.apply_once(authorized, 0)

    def _authorized(self, command: Signed | SignedBody) -> SignedBody | None:
        """Return the command that a key has signed, or that needs no signature; refuse what does not count.

        Such a refusal is not remembered: it must not take the place of the outcome of a command that counts.
        """
        state = self._state
        reason: RejectReason | None = None
        if isinstance(command, Signed) and not state.authority.keys:
            body = decode_signed_body(command.command)  # nobody's signature is known here yet
        elif isinstance(command, Signed):
            body, signed = decode_signed_body(command.command), command
            reason = state.authority.reason_to_refuse(
                signed,
                body,
                state.index,
                state.entered,
                state.windows.request_ms,
                state.time,
                state.market_map.by_asset,
            )
            if reason is None:
                state.signer = state.authority.keys[signed.key]
        else:
            body = command
            is_needed = bool(state.authority.keys) and not state.is_founding
            reason = RejectReason.NOT_AUTHORIZED if is_needed else None
        if reason is not None:
            state.replies.append((body.reply_to, Refused(body.request_id, state.time, reason)))
            return None
        return body

    def close_account(self, command: CloseAccount) -> None:
        """Forget an account that has nothing.

        What still waits for another shard on its behalf needs no account.
        """
        state = self._state
        account = state.accounts.get(command.account_id)
        if account is not None and account.is_in_use(state.time):
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.ACCOUNT_IN_USE)
            return
        if account is not None:
            del state.accounts[command.account_id]
            state.events.append(AccountClosed(state.time, command.account_id))
        self._replies.reply(command.reply_to, FundsReply(command.request_id, state.time, ()))

    def limit_account(self, command: LimitAccount) -> None:
        """Set an account's limits, unless somebody else has changed them meanwhile."""
        state = self._state
        account, limits = state.accounts.get(command.account_id), command.limits
        known = account.limits if account is not None else None
        if limits.version != (known.version if known is not None else 0) + 1:
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.CONFIG_OUTDATED)
            return
        if account is None:
            account = state.accounts[command.account_id] = Account(command.account_id, state.time)
        account.limits = limits
        account.order_counts = account.order_counts or OrderCounts()
        state.events.append(AccountLimited(state.time, command.account_id, limits))
        self._replies.reply(command.reply_to, Configured(command.request_id, state.time, limits.version))
