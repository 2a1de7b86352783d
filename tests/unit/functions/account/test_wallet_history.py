"""What came in and went out, and what a key may do, as libraries ask for it."""

from typing import Any, cast

import msgspec
import pytest

from functions.account import wallet
from functions.account.transfers import happened_long_ago
from functions.api.errors import ApiError
from functions.api.key_permissions import Scope
from functions.api.parameters import Parameters
from functions.api.ports import Call
from functions.repositories.api_keys import NewKey
from functions.repositories.ledger import Transfer
from functions.users.activity import Origin
from functions.users.api_key_record import KeyKind
from protocol.units import AccountId, TimeMs
from runtime.settings import Settings
from tests.unit.functions.repositories import MemoryAccounts, MemoryIngestion, MemoryLedger, ports_of

ANN = AccountId(1001)
T0 = 1_795_392_000_000
DEPOSITS = [
    Transfer(f"d{number}", "USDT" if number % 2 else "BTC", number * 10**8, TimeMs(T0 + number * 1_000))
    for number in (4, 3, 2, 1)
]
WITHDRAWALS = [Transfer("w1", "BTC", 5, TimeMs(T0 + 7_999))]


async def ask(handle: Any, ingestion: MemoryIngestion | None = None, /, **sent: str) -> list[dict[str, Any]]:
    ledger = MemoryLedger(deposit=DEPOSITS, withdrawal=WITHDRAWALS)
    ports = ports_of(ledger=ledger, ingestion=ingestion)
    answer = await handle(ports, Call(Parameters(sent), TimeMs(T0), ANN))
    return cast("list[dict[str, Any]]", answer)


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        ({}, ["d4", "d3", "d2", "d1"]),
        ({"coin": "BTC"}, ["d4", "d2"]),
        ({"limit": "2"}, ["d4", "d3"]),
        ({"limit": "2", "offset": "1"}, ["d3", "d2"]),
        ({"txId": "d2"}, ["d2"]),
        ({"startTime": str(T0 + 2_000), "endTime": str(T0 + 3_000)}, ["d3", "d2"]),
        ({"status": "1"}, ["d4", "d3", "d2", "d1"]),
    ],
)
async def test_deposits(sent: dict[str, str], names: list[str]) -> None:
    assert [each["id"] for each in await ask(wallet.get_deposits, **sent)] == names


async def test_what_is_not_done_is_not_there_and_nobody_is_asked() -> None:
    """Every transfer that is stored is done: deposits have Binance's status 1, withdrawals 6."""
    ingestion = MemoryIngestion()
    assert await ask(wallet.get_deposits, ingestion, status="0") == []
    assert await ask(wallet.get_withdrawals, ingestion, status="1") == []
    assert ingestion.questions == []
    assert [each["id"] for each in await ask(wallet.get_withdrawals, ingestion, status="6")] == ["w1"]
    assert ingestion.questions == [0]


async def test_a_withdrawal_has_its_time_as_a_text() -> None:
    (shown,) = await ask(wallet.get_withdrawals)
    assert (shown["amount"], shown["applyTime"], shown["completeTime"]) == (
        "0.00000005", "2026-11-23 00:00:07", "2026-11-23 00:00:07",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "code"), [({"status": "3"}, -1130), ({"coin": "NOPE"}, -1130), ({"limit": "0"}, -1130)]
)
async def test_questions_that_are_refused(sent: dict[str, str], code: int) -> None:
    with pytest.raises(ApiError) as refused:
        await ask(wallet.get_deposits, **sent)
    assert refused.value.code == code


async def test_an_asset_that_no_shard_has_said_yet() -> None:
    ledger = MemoryLedger(deposit=[Transfer("d1", "NEW", 5, TimeMs(T0))])
    with pytest.raises(ApiError) as refused:
        await wallet.get_deposits(ports_of(ledger=ledger), Call(Parameters({}), TimeMs(T0), ANN))
    assert (refused.value.code, refused.value.status) == (-1001, 503)


async def test_what_a_key_may_do() -> None:
    """A key by what was said when it was made; a ticket, which no repository has, reads and trades."""
    accounts = MemoryAccounts()
    ports = ports_of(accounts=accounts)
    account_id = await ports.users.add("ann@example.com", "hash", Origin("", ""))
    assert account_id is not None
    new = NewKey("k", KeyKind.HMAC, b"", "", (Scope.READ,), ("10.0.0.0/8",), T0 + 9)
    assert await ports.api_keys.add(account_id, new, Origin("", ""), password_hash="hash", keys_max=1)

    async def shown(key: str) -> tuple[object, ...]:
        call = Call(Parameters({}), TimeMs(T0), account_id, api_key=key)
        shape = msgspec.to_builtins(await wallet.get_key_restrictions(ports, call))
        names = (
            "ipRestrict",
            "createTime",
            "enableReading",
            "enableSpotAndMarginTrading",
            "enableWithdrawals",
        )
        return (*(shape[name] for name in names), shape.get("tradingAuthorityExpirationTime"))

    assert await shown("k") == (True, 5, True, False, False, T0 + 9)
    assert await shown("ticket") == (False, T0, True, True, False, None)


@pytest.mark.parametrize(("age", "is_known"), [(0, False), (-1, False), (1, True)])
async def test_a_transfer_is_looked_up_once_the_shard_may_have_forgotten_it(age: int, is_known: bool) -> None:
    """Half the window of the shard after it was made; a younger one is the shard's to answer."""
    now = TimeMs(T0 + 1_000 + Settings().windows().transfer_ms // 2 + age)
    ports = ports_of(ledger=MemoryLedger(deposit=DEPOSITS))
    assert await happened_long_ago(ports, ANN, "deposit", "d1", "USDT", 10**8, now) is is_known
    assert not await happened_long_ago(ports, ANN, "deposit", "d1", "USDT", 10**8 + 1, now)
    assert not await happened_long_ago(ports, ANN, "withdrawal", "d1", "USDT", 10**8, now)
