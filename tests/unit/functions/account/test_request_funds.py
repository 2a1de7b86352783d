"""The faucet credits once per idempotency key, also when the shard has forgotten the transfer."""

from typing import cast

import msgspec

from engine_worker.core.shard import Shard
from functions.account.get_account import BalanceShape
from functions.account.request_funds import request_funds
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from protocol.commands import Command
from protocol.events import FundsDeposited
from protocol.replies import Query, Reply
from protocol.units import AccountId, TimeMs
from protocol.windows import Windows
from runtime.settings import Settings

DAY_MS = 86_400_000
ANN = AccountId(1)


class Exchange:
    """One shard, and a database that has every deposit at once."""

    reply_to = "test"

    def __init__(self) -> None:
        self.settings = Settings()
        self.markets = self.known_markets = self.settings.market_map()
        self.shards = self.ledger = self
        self.now = TimeMs(1_000 * DAY_MS)
        self.stored: dict[tuple[int, str], FundsDeposited] = {}
        self.questions = 0
        self._shard = Shard(0, self.markets, Windows())
        self._last_id = 0

    def next_request_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def submit(self, command: Command, _deadline_us: int = 0) -> Reply:
        self._shard.apply(command, self.now)
        output = self._shard.take()
        for event in output.events:
            if isinstance(event, FundsDeposited):
                self.stored[event.account_id, event.transfer_id] = event
        [(_, reply)] = output.replies
        return reply

    async def query(self, _shard: int, query: Query) -> Reply:
        return self._shard.answer(query, self.now)[1]

    async def has_transfer(
        self, account_id: AccountId, _kind: str, transfer_id: str, asset: str, amount: int, *, before_ms: int
    ) -> bool:
        self.questions += 1
        found = self.stored.get((account_id, transfer_id))
        return found is not None and (found.asset, found.amount) == (asset, amount) and found.time < before_ms

    async def credit(self, amount: str, key: str = "") -> str:
        body = msgspec.json.encode({"asset": "USDT", "amount": amount})
        call = Call(Parameters({}), self.now, ANN, body=body, idempotency_key=key)
        answer = await request_funds(cast("Ports", self), call)
        assert isinstance(answer, BalanceShape)
        return answer.free


async def test_a_key_credits_once_however_late_it_comes_again() -> None:
    exchange = Exchange()
    assert await exchange.credit("5", "k") == "5.00000000"
    for days in (1, 3, 4, 8, 400):
        exchange.now = TimeMs((1_000 + days) * DAY_MS)
        assert await exchange.credit("5", "k") == "5.00000000"
    assert await exchange.credit("5", "other") == "10.00000000"
    assert len(exchange.stored) == 2


async def test_what_has_no_key_is_new_and_asks_nobody() -> None:
    exchange = Exchange()
    await exchange.credit("5")
    assert await exchange.credit("5") == "10.00000000"
    assert exchange.questions == 0
