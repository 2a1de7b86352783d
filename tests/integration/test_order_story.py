"""`exchange why`: one order's story, told from the log and found in the database."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from cli.main import main
from history.order_story import client_order_stories, order_story
from history.past import Past, PastError
from persist.archive import Archiver
from persist.ingest import ShardIngest
from protocol import streams
from protocol.codec import encode_frame, encode_skip
from protocol.commands import CancelOrder, Deposit, PlaceOrder, SkipEntry
from protocol.market import MarketMap
from protocol.orders import OrderType, Side, TimeInForce
from protocol.streams import ARCHIVE_READER, COMMANDS_FIELD, TRIMMED
from protocol.units import AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from runtime.settings import PREFIX
from stream_log.memory_log import MemoryStreamLog
from tests.support.archive_clock import ALWAYS, Clock
from tests.support.market_log import BTC, market_map
from tests.support.worked_log import WorkedLog

BUYER, SELLER, OTHER = AccountId(6), AccountId(7), AccountId(8)
"""On one shard, and each on one of three; BTCUSDT is matched on shard 0, the buyer's."""
MONEY, POOR = AssetUnits(10**15), AssetUnits(10**9)


_numbers = itertools.count(1)


def place(
    account: AccountId,
    name: str,
    side: Side,
    price: int,
    quantity: int,
    order_type: OrderType = OrderType.LIMIT,
) -> PlaceOrder:
    return PlaceOrder(
        next(_numbers), "gateway-1", account, name, BTC, side, order_type, TimeInForce.GTC, PriceTicks(price),
            QuantityLots(quantity)
    )  # fmt: skip


class Told:
    """A little market in which one order is sold in three pieces: the story's subject is `sell`."""

    def __init__(
        self,
        database_url: str,
        connection: psycopg.Connection,
        shard_count: int,
        *,
        are_in_one_entry: bool = False,
    ) -> None:
        self.markets: MarketMap = market_map(shard_count)
        self.log = MemoryStreamLog(Clock())
        trading = self.trading = WorkedLog(self.log, 21, self.markets, accounts=1)
        for account in (BUYER, SELLER, OTHER):
            for asset in ("BTC", "USDT"):
                amount = POOR if (account, asset) == (SELLER, "USDT") else MONEY
                trading.give(Deposit(next(_numbers), "gateway-1", account, asset, amount, f"first-{asset}"))
        give = trading.give_together if are_in_one_entry else trading.give
        give(
            place(OTHER, "in-front", Side.SELL, 50_000, 3_000),
            place(OTHER, "better", Side.SELL, 49_990, 2_000),
            place(SELLER, "sell", Side.SELL, 50_000, 5_000),
            place(SELLER, "sell", Side.SELL, 50_001, 5_000),
            place(BUYER, "buy", Side.BUY, 50_010, 7_000),
            place(SELLER, "poor", Side.BUY, 50_000, 50_000),
            place(SELLER, "post", Side.BUY, 50_000, 1_000, OrderType.LIMIT_MAKER),
        )
        (self.order_id,) = trading.workers[SELLER % shard_count].shard.state.accounts[SELLER].open_orders[BTC]
        trading.give(CancelOrder(9, "gateway-2", SELLER, BTC, OrderId(self.order_id)))
        archiver = Archiver(self.log, range(shard_count), database_url, ALWAYS)
        for shard in range(shard_count):
            ingest = ShardIngest(shard, self.log, database_url, shard_count, 1_000, archiver.cover)
            ingest.step()
            ingest.close()
        archiver.close()
        trading.trade(30)
        for shard in range(shard_count):
            archived = self.log.passed(shard)[ARCHIVE_READER]
            self.log.mark_passed(shard, TRIMMED, archived)
            self.log.trim(streams.commands(shard), archived)
        self.past = Past(self.log, connection, self.markets)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("are_in_one_entry", [False, True])
def test_a_resting_order_that_is_filled_in_part_and_canceled(
    database_url: str, connection: psycopg.Connection, are_in_one_entry: bool
) -> None:
    told = Told(database_url, connection, 1, are_in_one_entry=are_in_one_entry)
    story = order_story(told.past, connection, told.order_id)
    assert [step.what for step in story.steps] == [
        "command",
        "held",
        "accepted",
        "queued",
        "filled",
        "closed",
    ]
    command, held, accepted, queued, filled, closed = story.steps
    assert (story.account_id, story.client_order_id, story.status) == (SELLER, "sell", "CANCELED")
    assert command.facts["replyTo"] == "gateway-1"
    assert (command.facts["price"], command.facts["quantity"]) == ("500.00000000", "0.05000000")
    assert (held.facts["asset"], held.facts["amount"]) == ("BTC", "0.05000000")
    assert accepted.rows == [f"orders(order_id={told.order_id})"]
    assert (len(queued.facts["ordersAhead"]), queued.facts["quantityAhead"]) == (1, "0.03000000")
    assert queued.facts["betterPrices"] == 1
    assert (filled.facts["liquidity"], filled.facts["quantity"], filled.facts["price"]) == (
        "MAKER",
        "0.02000000",
        "500.00000000",
    )
    assert len(filled.rows) == 3
    assert closed.facts["by"] == "CancelOrder through gateway-2"
    assert closed.facts["filled"] == "0.02000000"
    assert closed.rows
    buyer = order_story(told.past, connection, filled.facts["counterpartyOrderId"])
    assert (buyer.client_order_id, buyer.status) == ("buy", "FILLED")
    fills = [step.facts for step in buyer.steps if step.what == "filled"]
    assert [(fill["liquidity"], fill["quantity"]) for fill in fills] == [
        ("TAKER", "0.02000000"),
        ("TAKER", "0.03000000"),
        ("TAKER", "0.02000000"),
    ]
    # (50010 - 49990) ticks of 0.01 for 0.02 BTC, and so on.
    assert [fill["released"] for fill in fills] == ["0.00400000", "0.00300000", "0.00200000"]
    assert fills[2]["counterpartyOrderId"] == told.order_id


@pytest.mark.parametrize("shard_count", [1, 3])
def test_refusals_name_the_rule_also_of_orders_without_a_number(
    database_url: str, connection: psycopg.Connection, shard_count: int
) -> None:
    told = Told(database_url, connection, shard_count)

    def reasons(name: str) -> list[str]:
        stories = client_order_stories(told.past, connection, SELLER, name)
        return [story.steps[-1].facts.get("reason", story.status) for story in stories]

    assert reasons("poor") == ["insufficient_balance"]
    assert reasons("sell") == ["canceled_by_owner", "duplicate_client_order_id"]
    assert reasons("post") == ["would_match_immediately"]
    with pytest.raises(PastError, match="has placed no order 'never'"):
        client_order_stories(told.past, connection, SELLER, "never")


def test_an_order_whose_market_is_on_another_shard(database_url: str, connection: psycopg.Connection) -> None:
    told = Told(database_url, connection, 3)
    assert (SELLER % 3, told.markets.shard_of_market(BTC)) == (1, 0)
    story = order_story(told.past, connection, told.order_id)
    what = [step.what for step in story.steps]
    assert what[:3] == ["command", "held", "sent"]
    assert {"reached", "queued", "accepted", "filled", "closed"} <= set(what)
    assert story.status == "CANCELED"
    queued = next(step for step in story.steps if step.what == "queued")
    assert (queued.stream, len(queued.facts["ordersAhead"])) == (streams.commands(0), 1)
    filled = next(step for step in story.steps if step.what == "filled")
    assert filled.stream == streams.commands(1)
    buyer = order_story(told.past, connection, filled.facts["counterpartyOrderId"])
    assert (buyer.client_order_id, buyer.status) == ("buy", "FILLED")


def test_an_unknown_order(database_url: str, connection: psycopg.Connection) -> None:
    told = Told(database_url, connection, 1)
    with pytest.raises(PastError, match="there is no order 99999900"):
        order_story(told.past, connection, 99_999_900)
    with pytest.raises(PastError, match="names shard 7"):
        order_story(told.past, connection, 107)


def test_the_commands_tell_it_also_when_only_the_database_has_it(
    database_url: str,
    redis_url: str,
    connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    told = Told(database_url, connection, 1)
    for name, value in {
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
    }.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    text = run("why", "--order", str(told.order_id))
    for words in (
        "account 7 asks: SELL LIMIT GTC 0.05000000 BTC at 500.00000000, as 'sell', through gateway-1",
        "0.05000000 BTC held",
        "behind 1 orders with 0.03000000 BTC and 1 better prices",
        "maker fill, trade 3: 0.02000000 at 500.00000000",
        "canceled (canceled by owner, by CancelOrder through gateway-2) with 0.02000000 BTC filled",
        f"orders(order_id={told.order_id}, status=4)",
    ):
        assert words in text
    first, second = json.loads(run("why", "--account", "7", "--client-order-id", "sell", "--json"))
    assert (first["status"], second["status"]) == ("CANCELED", "REFUSED")
    at = json.loads(run("book", "--market", "btcusdt", "--sequence", "2", "--json"))
    assert (at["bids"], at["asks"]) == ([], [["499.90000000", "0.02000000"], ["500.00000000", "0.03000000"]])
    assert "499.90000000" in run("book", "--market", BTC, "--sequence", "2")
    holding = json.loads(run("account", "--account", "7", "--market", BTC, "--sequence", "3", "--json"))
    assert [order["clientOrderId"] for order in holding["openOrders"]] == ["sell"]
    assert {"asset": "BTC", "available": "9999999.95000000", "held": "0.05000000"} in holding["balances"]
    assert "sell" not in run("account", "--account", "7")
    refused = CliRunner().invoke(main, ["book", "--market", BTC, "--sequence", "99999"])
    assert refused.exit_code == 1
    assert "is still to come" in refused.output


@pytest.mark.parametrize("shard_count", [1, 3])
def test_an_order_in_an_entry_that_was_skipped(
    database_url: str, connection: psycopg.Connection, shard_count: int
) -> None:
    told = Told(database_url, connection, shard_count)
    shard = told.markets.shard_of_account(SELLER)
    poison = told.log.append(
        streams.commands(shard),
        {COMMANDS_FIELD: encode_frame([place(SELLER, "skipped", Side.SELL, 50_000, 1_000)])},
    )
    told.log.order_skip(shard, encode_skip(SkipEntry(0, "", str(poison), "ada", "looked at it"), 1))
    told.trading.workers[shard].lead()
    told.trading.work()
    (story,) = client_order_stories(told.past, connection, SELLER, "skipped")
    assert (story.order_id, story.status) == (None, "SKIPPED")
    assert [step.what for step in story.steps] == ["command", "skipped"]
    assert story.steps[1].text == "its entry was skipped by ada: looked at it"


def test_an_order_whose_market_skipped_its_mail(database_url: str, connection: psycopg.Connection) -> None:
    told = Told(database_url, connection, 3)
    account_shard, market_shard = told.markets.shard_of_account(SELLER), told.markets.shard_of_market(BTC)
    assert account_shard != market_shard
    told.log.append(
        streams.commands(account_shard),
        {COMMANDS_FIELD: encode_frame([place(SELLER, "lost", Side.SELL, 60_000, 1_000)])},
    )
    before = told.log.last_id(streams.commands(market_shard))
    told.trading.workers[account_shard].step(block_ms=1)
    poison = told.log.last_id(streams.commands(market_shard))
    assert poison != before
    told.log.order_skip(market_shard, encode_skip(SkipEntry(0, "", str(poison), "ada", "looked at it"), 1))
    told.trading.workers[market_shard].lead()
    told.trading.work()
    (story,) = client_order_stories(told.past, connection, SELLER, "lost")
    assert [step.what for step in story.steps] == ["command", "held", "sent", "reached", "skipped"]
    assert story.status == "IN_FLIGHT"
