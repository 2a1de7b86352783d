"""What libraries ask of an account's wallet when they start: the account's truth, or nothing."""

from typing import Any

import httpx
import psycopg
import pytest

from functions.account import start_up_answers as start_up
from functions.account import wallet
from protocol import streams
from protocol.codec import encode_frame
from protocol.market_data import Ticker
from protocol.units import PriceTicks, QuantityLots, TimeMs
from runtime import redis_clients
from tests.support.api import Api, RefusedError, new_account, now_ms, refused
from tests.support.gateway_processes import Processes

T0 = 1_795_392_000_123
"""2026-11-23 00:00:00.123 UTC."""
_INSERT = "INSERT INTO transfers VALUES (%s, %s, %s, %s, %s, to_timestamp(%s / 1000.0))"


def add_ticker(redis_url: str, symbol: str, last: int) -> None:
    nothing, price = QuantityLots(0), PriceTicks(last)
    ticker = Ticker(
        symbol, TimeMs(1), TimeMs(2), price, price, price, price, nothing, PriceTicks(0), nothing, 0, 1, 1, 1
    )
    with redis_clients.client(redis_url) as client:
        client.set(streams.ticker(0, symbol), encode_frame(ticker))


@pytest.fixture
def api(processes: Processes) -> Api:
    processes.shards()
    url = processes.gateway()
    processes.pretend_ingested()
    return new_account(url, USDT="1000", BTC="0.5")


def test_funds(api: Api, processes: Processes) -> None:
    api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="50000")
    add_ticker(processes.redis_url, "BTCUSDT", 5_000_000)
    assets = {each["coin"]: each for each in api.signed("GET", "/sapi/v1/capital/config/getall")}
    assert {"BTC", "ETH", "SOL", "USDT"} == assets.keys()
    assert (assets["USDT"]["free"], assets["USDT"]["locked"]) == ("950.00000000", "50.00000000")
    assert (assets["SOL"]["free"], assets["BTC"]["free"]) == ("0.00000000", "0.50000000")
    owned = api.signed("POST", "/sapi/v3/asset/getUserAsset")
    assert owned == [
        {
            "asset": asset, "free": free, "locked": locked, "freeze": "0", "withdrawing": "0", "ipoable": "0",
            "btcValuation": "0",
        }
        for asset, free, locked in (("BTC", "0.50000000", "0.00000000"), ("USDT", "950.00000000",
            "50.00000000"))
    ]  # fmt: skip
    valued = api.signed("POST", "/sapi/v3/asset/getUserAsset", asset="USDT", needBtcValuation="true")
    assert [(each["asset"], each["btcValuation"]) for each in valued] == [("USDT", "0.02000000")]
    spot = {"activate": True, "walletName": "Spot"}
    assert api.signed("GET", "/sapi/v1/asset/wallet/balance") == [{**spot, "balance": "0.52000000"}]
    assert api.signed("GET", "/sapi/v1/asset/wallet/balance", quoteAsset="USDT") == [
        {**spot, "balance": "26000.00000000"}
    ]
    with refused(-1130, "Data sent for parameter 'asset' is not valid."):
        api.signed("POST", "/sapi/v3/asset/getUserAsset", asset="NOPE")


def test_what_came_in_and_went_out(api: Api, processes: Processes) -> None:
    account = api.signed("GET", "/api/v3/account")["uid"]
    with psycopg.connect(processes.database_url) as connection:
        for number, (owner, kind, asset) in enumerate(
            (
                (account, "deposit", "USDT"),
                (account, "deposit", "BTC"),
                (account, "withdrawal", "BTC"),
                (account + 1, "deposit", "BTC"),
            )
        ):
            connection.execute(
                _INSERT, (owner, kind, f"t{number}", asset, 150_000_000 + number, T0 + number * 1000)
            )

    def ids(path: str, **wanted: str | int) -> list[str]:
        return [each["id"] for each in api.signed("GET", path, **wanted)]

    deposits = "/sapi/v1/capital/deposit/hisrec"
    first = api.signed("GET", deposits)[-1]
    assert (first["id"], first["amount"], first["coin"], first["status"], first["insertTime"]) == (
        "t0",
        "1.50000000",
        "USDT",
        1,
        T0,
    )
    assert (first["address"], first["network"]) == ("", "")
    assert ids(deposits) == ["t1", "t0"]
    assert ids(deposits, coin="BTC") == ["t1"]
    assert ids(deposits, startTime=T0 + 1) == ["t1"]
    assert ids(deposits, endTime=T0 + 1) == ["t0"]
    assert ids(deposits, limit=1) == ["t1"]
    assert ids(deposits, limit=1, offset=1) == ["t0"]
    assert ids(deposits, txId="t0") == ["t0"]
    assert ids(deposits, status=0) == []
    assert ids(deposits, status=1) == ["t1", "t0"]
    (out,) = api.signed("GET", "/sapi/v1/capital/withdraw/history")
    assert (out["id"], out["amount"], out["coin"], out["status"]) == ("t2", "1.50000002", "BTC", 6)
    assert out["applyTime"] == out["completeTime"] == "2026-11-23 00:00:02"
    with refused(-1130, "Data sent for parameter 'status' is not valid."):
        api.signed("GET", deposits, status=9)


def test_what_key_and_account_may_do(api: Api) -> None:
    rights = api.signed("GET", "/sapi/v1/account/apiRestrictions")
    assert 0 <= now_ms() - rights.pop("createTime") < 600_000
    assert {name for name, allowed in rights.items() if allowed} == {
        "enableReading",
        "enableSpotAndMarginTrading",
    }
    assert api.signed("GET", "/sapi/v1/account/status") == {"data": "Normal"}
    trading = api.signed("GET", "/sapi/v1/account/apiTradingStatus")["data"]
    assert (trading["isLocked"], trading["plannedRecoverTime"], trading["triggerCondition"]) == (False, 0, {})


def test_there_is_no_address_and_no_network(api: Api) -> None:
    address = {"coin": "BTC", "address": "", "tag": "", "url": ""}
    assert api.signed("GET", "/sapi/v1/capital/deposit/address", coin="BTC") == address
    for wanted, code in (({}, -1102), ({"coin": "NOPE"}, -1130)):
        with pytest.raises(RefusedError) as error:
            api.signed("GET", "/sapi/v1/capital/deposit/address", **wanted)
        assert error.value.code == code
    details = api.signed("GET", "/sapi/v1/asset/assetDetail")
    assert details.keys() == {"BTC", "ETH", "SOL", "USDT"}
    assert not any(each["depositStatus"] or each["withdrawStatus"] for each in details.values())
    assert api.signed("GET", "/sapi/v1/asset/assetDetail", asset="BTC").keys() == {"BTC"}
    assert api.signed("POST", "/sapi/v1/asset/get-funding-asset") == []


def test_all_of_it_needs_a_signature(api: Api) -> None:
    signed = [
        each for each in (*wallet.FUNCTIONS, *start_up.FUNCTIONS) if each.known_parameters() >= {"signature"}
    ]
    assert len(signed) == len(wallet.FUNCTIONS) + 2
    answers: list[Any] = [httpx.request(each.method, api.url + each.path).json() for each in signed]
    assert {answer["code"] for answer in answers} == {-2014}
