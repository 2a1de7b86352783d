"""Repositories in memory, the obvious way: lists, and conditions on them.

`tests/integration/persist/test_repositories.py` compares those of trades and orders with the real ones.
"""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from functions.account.ledger_position import Position
from functions.api.errors import unavailable
from functions.api.ports import Ports
from functions.repositories.activity import ActivityEntry, ActivityLog
from functions.repositories.api_keys import ApiKeys, KeyTerms, NewKey, StoredKey
from functions.repositories.ingestion import Ingestion
from functions.repositories.ledger import Ledger, LedgerEntry, LedgerPage, Transfer
from functions.repositories.mails import Mail, Mails, Purpose
from functions.repositories.orders import Orders, PreventedMatch, StoredFill
from functions.repositories.second_factors import SecondFactors, StoredFactor
from functions.repositories.sessions import EndedSession, Sessions, StoredSession
from functions.repositories.trades import AggregateTrade, StoredTrade, Trades, Turnover
from functions.repositories.users import Contact, Profile, SignInFacts, StepUpFacts, Users
from functions.users.activity import Activity, Origin
from protocol.events import TradeExecuted
from protocol.orders import OrderState
from protocol.units import AccountId, OrderId, TimeMs
from runtime.settings import Settings


def ports_of(
    *,
    ingestion: Ingestion | None = None,
    trades: Trades | None = None,
    orders: Orders | None = None,
    ledger: Ledger | None = None,
    accounts: "MemoryAccounts | None" = None,
    **others: object,
) -> Ports:
    """Return ports with three markets on one shard, the settings of a test, and what is given.

    Nothing else may be reached.
    """
    settings = Settings()
    markets = settings.market_map()
    given = {"trades": trades, "orders": orders, "ledger": ledger, **others}
    return cast(
        "Ports",
        SimpleNamespace(
            settings=settings,
            markets=markets,
            known_markets=markets,
            ingestion=ingestion or MemoryIngestion(),
            **{name: each for name, each in given.items() if each is not None},
            **({} if accounts is None else accounts.repositories()),
        ),
    )


class MemoryIngestion:
    """A database that has everything, or is away."""

    def __init__(self, *, is_away: bool = False) -> None:
        self.is_away = is_away
        self.questions: list[int] = []

    async def catch_up(self, shard: int) -> None:
        if self.is_away:
            raise unavailable()
        self.questions.append(shard)


class MemoryTrades:
    """Trades of one market, oldest first."""

    def __init__(self, trades: Iterable[TradeExecuted] = ()) -> None:
        self.trades = list(trades)

    async def starting_at(self, symbol: str, trade_id: int, limit: int) -> list[StoredTrade]:
        return [_stored(each) for each in self._of(symbol) if each.trade_id >= trade_id][:limit]

    async def newest(self, symbol: str, limit: int) -> list[StoredTrade]:
        return [_stored(each) for each in self._of(symbol)][-limit:]

    async def newest_before(self, symbol: str, trade_id: int, limit: int) -> list[StoredTrade]:
        return [_stored(each) for each in self._of(symbol) if each.trade_id < trade_id][-limit:]

    async def aggregates(
        self, symbol: str, *, from_id: int | None, start: TimeMs | None, end: TimeMs | None, limit: int
    ) -> list[AggregateTrade]:
        parts: dict[int, list[TradeExecuted]] = {}
        for each in self._of(symbol):
            if (start is None or each.time >= start) and (end is None or each.time <= end):
                parts.setdefault(each.aggregate_id, []).append(each)
        found = [
            AggregateTrade(
                number,
                trades[0].price,
                cast("Any", sum(each.quantity for each in trades)),
                trades[0].trade_id,
                trades[-1].trade_id,
                trades[0].time,
                trades[0].taker_side,
            )
            for number, trades in parts.items()
            if from_id is None or number >= from_id
        ]
        return found[-limit:] if from_id is None and start is None else found[:limit]

    async def turnover_since(self, symbol: str, start: int) -> Turnover:
        since = [each for each in self._of(symbol) if each.time >= start]
        market = Settings().market_map().by_symbol[symbol]
        return Turnover(
            sum(each.quantity for each in since),
            sum(market.notional(each.price, each.quantity) for each in since),
            since[-1].time if since else None,
        )

    async def last_time(self, symbol: str) -> TimeMs | None:
        return next((each.time for each in reversed(self._of(symbol))), None)

    def _of(self, symbol: str) -> list[TradeExecuted]:
        return [each for each in self.trades if each.market == symbol]


def _stored(trade: TradeExecuted) -> StoredTrade:
    return StoredTrade(trade.trade_id, trade.price, trade.quantity, trade.time, trade.taker_side)


class MemoryOrders:
    """Orders, and fills and prevented matches of one account in one market; all oldest first."""

    def __init__(
        self,
        orders: Iterable[OrderState] = (),
        fills: Iterable[StoredFill] = (),
        prevented: Iterable[PreventedMatch] = (),
    ) -> None:
        self.orders, self._fills, self._prevented = list(orders), list(fills), list(prevented)

    async def find(
        self, account_id: AccountId, symbol: str, order_id: OrderId, client_order_id: str
    ) -> OrderState | None:
        found = [
            each
            for each in self._of(account_id, symbol)
            if order_id in (0, each.order_id) and client_order_id in ("", each.client_order_id)
        ]
        return found[-1] if found else None

    async def page(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        from_id: int | None,
        start: TimeMs | None,
        end: TimeMs | None,
        limit: int,
    ) -> list[OrderState]:
        found = [
            each
            for each in self._of(account_id, symbol)
            if each.order_id >= (from_id or 0) and _is_within(each.accepted_time, start, end)
        ]
        return found[-limit:] if from_id is None and start is None else found[:limit]

    async def fills(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        order_id: int | None,
        from_id: int | None,
        start: TimeMs | None,
        end: TimeMs | None,
        limit: int,
    ) -> list[StoredFill]:
        found = [
            each
            for each in self._fills
            if order_id in (None, each.order_id)
            and each.trade_id >= (from_id or 0)
            and _is_within(each.time, start, end)
        ]
        return found[-limit:] if from_id is None and start is None else found[:limit]

    async def prevented_matches(
        self,
        account_id: AccountId,
        symbol: str,
        *,
        match_id: int | None,
        order_id: int | None,
        from_id: int,
        limit: int,
    ) -> list[PreventedMatch]:
        return [
            each
            for each in self._prevented
            if each.match_id >= from_id
            and match_id in (None, each.match_id)
            and order_id in (None, each.taker_order_id, each.maker_order_id)
        ][:limit]

    def _of(self, account_id: AccountId, symbol: str) -> list[OrderState]:
        return [each for each in self.orders if (each.account_id, each.market) == (account_id, symbol)]


def _is_within(time: int, start: int | None, end: int | None) -> bool:
    return (start is None or time >= start) and (end is None or time <= end)


class MemoryLedger:
    """One account's entries, oldest first, and its transfers by kind, newest first."""

    def __init__(self, entries: Iterable[LedgerEntry] = (), **transfers: Sequence[Transfer]) -> None:
        self._entries, self._transfers = list(entries), transfers

    async def page(
        self,
        account_id: AccountId,
        assets: Sequence[str],
        *,
        start: TimeMs,
        first: Position,
        end: TimeMs | None,
        limit: int,
    ) -> LedgerPage:
        after_end = Position(TimeMs(10**15 if end is None else end + 1))
        entries = [each for each in self._entries if each.asset in assets]
        wanted = [each for each in entries if max(first, Position(start)) <= each.position < after_end]
        opening, before, closing = (_sums(entries, place) for place in (Position(start), first, after_end))
        return LedgerPage(opening, before, closing, wanted[:limit])

    async def transfers(
        self,
        account_id: AccountId,
        kind: str,
        *,
        asset: str | None,
        transfer_id: str | None,
        start: TimeMs | None,
        end: TimeMs | None,
        limit: int,
        offset: int,
    ) -> list[Transfer]:
        return [
            each
            for each in self._transfers.get(kind, ())
            if asset in (None, each.asset)
            and transfer_id in (None, each.transfer_id)
            and _is_within(each.time, start, end)
        ][offset:][:limit]

    async def has_transfer(
        self, account_id: AccountId, kind: str, transfer_id: str, asset: str, amount: int, *, before_ms: int
    ) -> bool:
        return any(
            each[:3] == (transfer_id, asset, amount) and each.time < before_ms
            for each in self._transfers.get(kind, ())
        )


def _sums(entries: Iterable[LedgerEntry], place: Position) -> dict[str, int]:
    sums: dict[str, int] = {}
    for each in entries:
        if each.position < place:
            sums[each.asset] = sums.get(each.asset, 0) + each.amount
    return sums


class _User(NamedTuple):
    account_id: AccountId
    email: str
    password_hash: str
    is_verified: bool = False


class MemoryAccounts:
    """Users, second factors, sessions, API keys, mails and activity together: what is done to one is noted as
    activity."""

    def __init__(self) -> None:
        self._users: dict[AccountId, _User] = {}
        self.factors: dict[AccountId, tuple[bytes, bool]] = {}
        """The sealed secret, and whether it is confirmed."""
        self.steps: dict[AccountId, int] = {}
        self.recovery_codes: dict[AccountId, set[str]] = {}
        self.sessions: dict[str, tuple[AccountId, str, StoredSession]] = {}
        """Id -> account, hash of its token, session; also those that have ended."""
        self.ended: set[str] = set()
        self.keys: dict[str, tuple[AccountId, NewKey]] = {}
        self.revoked: set[str] = set()
        self.mails: list[tuple[AccountId, Mail]] = []
        self.tokens: dict[str, tuple[AccountId, Purpose]] = {}
        self.noted: list[tuple[AccountId, Activity, str]] = []

    def repositories(self) -> dict[str, object]:
        """Return the repositories by their names in `Ports`."""
        users: Users = MemoryUsers(self)
        second_factors: SecondFactors = MemorySecondFactors(self)
        sessions: Sessions = MemorySessions(self)
        api_keys: ApiKeys = MemoryApiKeys(self)
        mails: Mails = MemoryMails(self)
        activity: ActivityLog = MemoryActivityLog(self)
        return {
            "users": users,
            "second_factors": second_factors,
            "sessions": sessions,
            "api_keys": api_keys,
            "mails": mails,
            "activity": activity,
        }

    def note(self, account_id: AccountId, activity: Activity, detail: str = "") -> None:
        self.noted.append((account_id, activity, detail))

    def user(self, account_id: AccountId) -> _User | None:
        return self._users.get(account_id)

    def user_of(self, email: str) -> _User | None:
        return next((each for each in self._users.values() if each.email == email), None)

    def put(self, user: _User) -> None:
        self._users[user.account_id] = user

    def next_account(self) -> AccountId:
        return AccountId(1001 + len(self._users))


class MemoryUsers:
    """Users of `MemoryAccounts`."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def add(self, email: str, password_hash: str, origin: Origin) -> AccountId | None:
        if self._accounts.user_of(email) is not None:
            return None
        account_id = self._accounts.next_account()
        self._accounts.put(_User(account_id, email, password_hash))
        self._accounts.note(account_id, Activity.SIGNED_UP)
        return account_id

    async def account_of(self, email: str) -> AccountId | None:
        user = self._accounts.user_of(email)
        return None if user is None else user.account_id

    async def sign_in_facts(self, email: str, origin: Origin) -> SignInFacts | None:
        user = self._accounts.user_of(email)
        if user is None:
            return None
        before = [each for owner, _, each in self._accounts.sessions.values() if owner == user.account_id]
        return SignInFacts(
            user.account_id,
            user.password_hash,
            bool(before),
            any(each.address == origin.address for each in before),
            any(each.agent == origin.agent for each in before),
        )

    async def step_up_facts(self, account_id: AccountId, address: str) -> StepUpFacts | None:
        user = self._accounts.user(account_id)
        knows_address = any(
            owner == account_id and each.address == address
            for owner, _, each in self._accounts.sessions.values()
        )
        return None if user is None else StepUpFacts(user.email, user.password_hash, knows_address)

    async def profile(self, account_id: AccountId) -> Profile | None:
        user = self._accounts.user(account_id)
        _, has_factor = self._accounts.factors.get(account_id, (b"", False))
        return None if user is None else Profile(user.email, TimeMs(5), user.is_verified, has_factor)

    async def contact(self, account_id: AccountId) -> Contact | None:
        user = self._accounts.user(account_id)
        return None if user is None else Contact(user.email, user.is_verified)

    async def is_verified(self, account_id: AccountId) -> bool:
        user = self._accounts.user(account_id)
        return user is not None and user.is_verified

    async def verify(self, account_id: AccountId, origin: Origin) -> None:
        await self.verify_silently(account_id)
        self._accounts.note(account_id, Activity.VERIFIED)

    async def verify_silently(self, account_id: AccountId) -> None:
        user = self._accounts.user(account_id)
        assert user is not None
        self._accounts.put(user._replace(is_verified=True))

    async def set_password(
        self,
        account_id: AccountId,
        password_hash: str,
        activity: Activity,
        origin: Origin,
        *,
        known_hash: str | None,
    ) -> bool:
        user = self._accounts.user(account_id)
        if user is None or known_hash not in (None, user.password_hash):
            return False
        self._accounts.put(user._replace(password_hash=password_hash))
        self._accounts.note(account_id, activity)
        return True

    async def has_password(self, account_id: AccountId, password_hash: str) -> bool:
        user = self._accounts.user(account_id)
        return user is not None and user.password_hash == password_hash


class MemorySecondFactors:
    """Second factors of `MemoryAccounts`."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def find(self, account_id: AccountId) -> StoredFactor | None:
        user = self._accounts.user(account_id)
        return (
            None
            if user is None
            else StoredFactor(user.email, *self._accounts.factors.get(account_id, (b"", False)))
        )

    async def begin(self, account_id: AccountId, sealed: bytes) -> str | None:
        factor = await self.find(account_id)
        if factor is None or factor.is_on:
            return None
        self._accounts.factors[account_id] = (sealed, False)
        return factor.email

    async def confirm(
        self, account_id: AccountId, sealed: bytes, code_hashes: Sequence[str], origin: Origin
    ) -> bool:
        if self._accounts.factors.get(account_id) != (sealed, False):
            return False
        self._accounts.factors[account_id] = (sealed, True)
        self._accounts.recovery_codes[account_id] = set(code_hashes)
        self._accounts.note(account_id, Activity.FACTOR_ADDED)
        return True

    async def remove(self, account_id: AccountId, origin: Origin) -> bool:
        if not self._accounts.factors.get(account_id, (b"", False))[1]:
            return False
        del self._accounts.factors[account_id]
        self._accounts.note(account_id, Activity.FACTOR_REMOVED)
        return True

    async def use_step(self, account_id: AccountId, step: int) -> bool:
        is_new = self._accounts.steps.get(account_id, 0) < step
        self._accounts.steps[account_id] = max(step, self._accounts.steps.get(account_id, 0))
        return is_new

    async def use_recovery_code(self, account_id: AccountId, code_hash: str) -> bool:
        codes = self._accounts.recovery_codes.get(account_id, set())
        is_there = code_hash in codes
        codes.discard(code_hash)
        return is_there


class MemorySessions:
    """Sessions of `MemoryAccounts`."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def begin(
        self,
        account_id: AccountId,
        password_hash: str,
        session_id: str,
        token_hash: str,
        ttl_s: int,
        origin: Origin,
    ) -> bool:
        user = self._accounts.user(account_id)
        if user is None or user.password_hash != password_hash:
            return False
        begun = StoredSession(session_id, TimeMs(5), TimeMs(5 + ttl_s * 1000), origin.address, origin.agent)
        self._accounts.sessions[session_id] = (account_id, token_hash, begun)
        self._accounts.note(account_id, Activity.SIGNED_IN, session_id)
        return True

    async def newest(self, account_id: AccountId, limit: int) -> list[StoredSession]:
        return [self._accounts.sessions[each][2] for each in await self.open_ids(account_id)][::-1][:limit]

    async def open_ids(self, account_id: AccountId) -> list[str]:
        return [
            name
            for name, (owner, _, _) in self._accounts.sessions.items()
            if owner == account_id and name not in self._accounts.ended
        ]

    async def knows_address(self, account_id: AccountId, address: str) -> bool:
        return any(
            owner == account_id and each.address == address
            for owner, _, each in self._accounts.sessions.values()
        )

    async def end(
        self, account_id: AccountId, session_ids: Sequence[str], origin: Origin
    ) -> list[EndedSession]:
        found = []
        for session_id in session_ids:
            owner, token_hash, _ = self._accounts.sessions.get(session_id, (None, "", None))
            if owner == account_id:
                found.append(EndedSession(session_id, token_hash, session_id not in self._accounts.ended))
                self._accounts.ended.add(session_id)
        for each in found:
            if each.is_new:
                self._accounts.note(account_id, Activity.SIGNED_OUT, each.session_id)
        return found


class MemoryApiKeys:
    """API keys of `MemoryAccounts`."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def add(
        self, account_id: AccountId, new: NewKey, origin: Origin, *, password_hash: str, keys_max: int
    ) -> bool:
        user = self._accounts.user(account_id)
        if (
            user is None
            or user.password_hash != password_hash
            or len(await self.of_account(account_id)) >= keys_max
        ):
            return False
        self._accounts.keys[new.key] = (account_id, new)
        self._accounts.note(account_id, Activity.KEY_MADE, new.key)
        return True

    async def of_account(self, account_id: AccountId) -> list[StoredKey]:
        return [
            StoredKey(
                new.key,
                new.kind,
                new.label,
                TimeMs(5),
                list(new.scopes),
                list(new.networks),
                None if new.expires_time is None else TimeMs(new.expires_time),
                None,
            )
            for owner, new in self._accounts.keys.values()
            if owner == account_id and new.key not in self._accounts.revoked
        ]

    async def terms(self, key: str) -> KeyTerms | None:
        if key not in self._accounts.keys:
            return None
        _, new = self._accounts.keys[key]
        expires = None if new.expires_time is None else TimeMs(new.expires_time)
        return KeyTerms(TimeMs(5), new.scopes, bool(new.networks), expires)

    async def revoke(self, account_id: AccountId, key: str, origin: Origin) -> bool:
        owner, _ = self._accounts.keys.get(key, (None, None))
        if owner == account_id and key not in self._accounts.revoked:
            self._accounts.revoked.add(key)
            self._accounts.note(account_id, Activity.KEY_REVOKED, key)
        return owner == account_id

    async def revoke_all(self, account_id: AccountId, origin: Origin) -> list[str]:
        keys = [name for name, (owner, _) in self._accounts.keys.items() if owner == account_id]
        for key in keys:
            await self.revoke(account_id, key, origin)
        return keys


class MemoryMails:
    """Mails of `MemoryAccounts`; every mail is sent, and tokens last for ever."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def write(self, account_id: AccountId, mail: Mail) -> None:
        self._accounts.mails.append((account_id, mail))

    async def add_token(self, token_hash: str, account_id: AccountId, purpose: Purpose, ttl_s: int) -> None:
        self._accounts.tokens[token_hash] = (account_id, purpose)

    async def owner_of_token(self, token_hash: str, purpose: Purpose) -> AccountId | None:
        account_id, kept_purpose = self._accounts.tokens.get(token_hash, (None, None))
        return account_id if kept_purpose is purpose else None

    async def use_token(self, token_hash: str, purpose: Purpose) -> AccountId | None:
        account_id = await self.owner_of_token(token_hash, purpose)
        if account_id is not None:
            del self._accounts.tokens[token_hash]
        return account_id

    async def use_up_tokens(self, account_id: AccountId, purpose: Purpose) -> None:
        for token_hash in [
            name for name, kept in self._accounts.tokens.items() if kept == (account_id, purpose)
        ]:
            del self._accounts.tokens[token_hash]


class MemoryActivityLog:
    """The activity of `MemoryAccounts`."""

    def __init__(self, accounts: MemoryAccounts) -> None:
        self._accounts = accounts

    async def newest(
        self, account_id: AccountId, *, before_id: int | None, limit: int
    ) -> list[ActivityEntry]:
        return [
            ActivityEntry(number, TimeMs(1_000 + number), activity, "192.0.2.1", "test", detail)
            for number, (owner, activity, detail) in enumerate(self._accounts.noted, 1)
            if owner == account_id and (before_id is None or number < before_id)
        ][::-1][:limit]

    async def note_refused_sign_in(self, email: str, origin: Origin) -> None:
        user = self._accounts.user_of(email)
        if user is not None:
            self._accounts.note(user.account_id, Activity.SIGN_IN_REFUSED)
