"""A statement of account as its owner asks for it: with a session, with a key, as JSON and as a file."""

import csv
import io
from contextlib import closing
from decimal import Decimal

import httpx

from persist.ingest import Progress, ShardIngest
from stream_log.redis_log import RedisStreamLog
from tests.support.api import Api
from tests.support.gateway_processes import Processes
from tests.support.newcomers import ORIGIN, Person, newcomer

PATH = "/api/v1/statement"


def ingest(processes: Processes) -> None:
    """Store everything that the shards have said so far."""
    with closing(RedisStreamLog.connect(processes.redis_url)) as log:
        for shard in range(processes.shard_count):
            worker = ShardIngest(shard, log, processes.database_url, processes.shard_count, 2_000)
            while worker.step() is Progress.MORE:
                pass
            worker.close()


def trader(url: str, **funds: str) -> tuple[Person, Api]:
    person = newcomer(url)
    for asset, amount in funds.items():
        person.ask("POST", "/api/v1/faucet", {"asset": asset, "amount": amount}).raise_for_status()
    return person, person.key()


def test_a_statement_is_what_happened_and_ends_at_what_the_account_has(processes: Processes) -> None:
    processes.shards()
    url = processes.gateway()
    (buyer, buying), (_, selling) = trader(url, USDT="1000"), trader(url, BTC="1")
    selling.order("BTCUSDT", "SELL", "LIMIT", quantity="0.01", price="20000")
    buying.order("BTCUSDT", "BUY", "LIMIT", quantity="0.02", price="20000")  # half of it rests, 200 USDT held
    ingest(processes)

    statement = buyer.ask("GET", PATH).raise_for_status().json()
    fee = Decimal(buying.my_trades("BTCUSDT")[0]["commission"])
    entries = [
        (entry["asset"], entry["kind"], Decimal(entry["amount"]), Decimal(entry["balance"]))
        for entry in statement["entries"]
    ]
    received = Decimal("0.01") - fee
    assert fee > 0
    assert entries == [
        ("USDT", "deposit", 1000, 1000),
        ("USDT", "trade", -200, 800),
        ("BTC", "trade", received, received),
    ]
    references = [entry["reference"] for entry in statement["entries"]]
    assert references[0].startswith("faucet-")
    assert references[1:] == ["BTCUSDT:1", "BTCUSDT:1"]
    free = {asset: sum(amounts) for asset, amounts in buying.balances().items() if sum(amounts)}
    assert {each["asset"]: Decimal(each["closing"]) for each in statement["balances"]} == free
    assert {each["opening"] for each in statement["balances"]} == {"0.00000000"}
    assert buying.signed("GET", PATH) == statement, "the key of the same owner"

    page = buying.signed("GET", PATH, limit=2)
    assert page["hasMore"]
    rest = buying.signed("GET", PATH, limit=2, after=page["entries"][-1]["position"])
    assert (page["entries"] + rest["entries"], rest["hasMore"]) == (statement["entries"], False)


def test_a_file_also_for_a_page_of_another_origin(processes: Processes) -> None:
    """By the framework's way and by the door's."""
    processes.shards()
    url = processes.gateway()
    person, _ = trader(url, USDT="10", BTC="2")
    ingest(processes)
    uid = person.ask("GET", "/api/v1/me").json()["accountId"]
    for headers in ({}, {"Origin": ORIGIN}):
        answer = httpx.get(f"{url}{PATH}?format=csv", headers={**person.bearer, **headers}).raise_for_status()
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"] == f'attachment; filename="statement-{uid}.csv"'
        assert answer.headers["cache-control"] == "no-store"
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert [(row["kind"], row["asset"], row["amount"], row["balance"]) for row in rows] == [
            ("opening", "BTC", "", "0.00000000"),
            ("opening", "USDT", "", "0.00000000"),
            ("deposit", "USDT", "10.00000000", "10.00000000"),
            ("deposit", "BTC", "2.00000000", "2.00000000"),
            ("closing", "BTC", "", "2.00000000"),
            ("closing", "USDT", "", "10.00000000"),
        ]
    refused = person.ask("GET", PATH, format="csv", limit="0")
    assert (refused.status_code, refused.json()["code"]) == (400, -1130)
    assert refused.headers["content-type"].startswith("application/json")
