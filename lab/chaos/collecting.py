"""What the exchange says when the load is over: its database, its shards, its API."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, Final

import psycopg
import redis

from cli.inquiries import audit, connect, connect_cache
from cli.local.own_exchange import EXCHANGE
from cli.local.state_file import log_folder
from cli.market_configs import by_symbol, known_configs
from client.blocking import RequestError, new_account, request, signed
from lab.chaos.evidence import (
    Answered,
    Book,
    CandleRow,
    Evidence,
    FillRow,
    LedgerSum,
    OpenOrder,
    OrderRow,
    Outcome,
    SentDeposit,
    Stored,
    TradeRow,
)
from lab.chaos.quiet import Progress
from lab.chaos.traders import Trader
from lab.chaos.trading import FUNDS
from protocol import streams
from protocol.intervals import INTERVALS
from protocol.orders import OrderStatus, Side
from protocol.positions import ShardPosition
from protocol.stream_id import STREAM_START, StreamId
from protocol.units import UNITS_PER_ASSET, parse_decimal
from runtime.settings import Settings

TIMEOUT_S: Final = 10.0
AUDIT_S: Final = 5.0
REPLAY_S: Final = 300.0
FENCED: Final = "another worker leads"
"""What a worker says that was replaced."""
STOPPED: Final = ("the shard stops", "the feeds stop", "ingest stands still")
"""What a part says that found a promise broken."""

_MS: Final = "(extract(epoch FROM {}) * 1000)::bigint"
_ORDERS: Final = f"""
    SELECT order_id, account_id, client_order_id, market, side, order_type, price, quantity, status,
    cum_quantity, cum_quote,
        {_MS.format("accepted_time")}, {_MS.format("updated_time")} FROM orders
"""
_TRADES: Final = f"""
    SELECT {_MS.format("time")}, market, trade_id, sequence, price, quantity, quote, taker_side,
    maker_order_id, taker_order_id,
        maker_account_id, taker_account_id FROM trades ORDER BY market, trade_id
"""
_FILLS: Final = f"""
    SELECT {_MS.format("time")}, account_id, market, order_id, trade_id, side, price, quantity, quote,
    liquidity, fee, fee_asset FROM fills
"""
# Sums are numeric: they may be beyond 64 bits.
_LEDGER: Final = (
    "SELECT account_id, asset, kind, sum(amount), count(*) FROM ledger_entries GROUP BY account_id, asset, "
    "kind"
)
_CANDLES: Final = """
    SELECT market, {1}, open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume,
        taker_buy_quote, first_trade_id, last_trade_id FROM "candles_{0}"
"""


def new_traders(settings: Settings, evidence: Evidence, count: int) -> list[Trader]:
    """Create `count` accounts with funds and API keys, and record their deposits."""
    traders = []
    funds = {asset: str(FUNDS[asset]) for asset in evidence.markets.assets if asset in FUNDS}
    for _ in range(count):
        account = new_account(settings.rest_url(), "chaos", funds)
        evidence.deposits += (
            SentDeposit(account.account_id, asset, FUNDS[asset] * UNITS_PER_ASSET, Outcome.ACKNOWLEDGED)
            for asset in funds
        )
        traders.append(Trader(account.account_id, account.api_key, account.secret.encode(), account.token))
    return traders


def stored(settings: Settings) -> Stored:
    """Return the orders, trades, fills, candles and ledger sums in the database."""
    with psycopg.connect(settings.resolved_database_url()) as database:
        candles = [
            CandleRow(market, interval, *map(int, numbers))
            for interval in INTERVALS
            for market, *numbers in database.execute(
                _CANDLES.format(interval, _MS.format("open_time")).encode()
            )
        ]
        (dead_events,) = database.execute("SELECT count(*) FROM dead_events").fetchone() or (0,)
        return Stored(
            orders=[OrderRow(*row) for row in database.execute(_ORDERS.encode())],
            trades=[TradeRow(*row) for row in database.execute(_TRADES.encode())],
            fills=[FillRow(*row) for row in database.execute(_FILLS.encode())],
            ledger=[
                LedgerSum(account_id, asset, kind, int(amount), entries)
                for account_id, asset, kind, amount, entries in database.execute(_LEDGER)
            ],
            candles=candles,
            dead_events=dead_events,
        )


def answered(settings: Settings, evidence: Evidence, traders: list[Trader]) -> Answered:
    """Return what the API and the shards answer; what does not answer is missing."""
    answers = Answered()
    for trader in traders:
        try:
            account = _signed(settings, trader, "/api/v3/account")
            orders = _signed(settings, trader, "/api/v3/openOrders")
        except (RequestError, ValueError):
            continue
        for balance in account["balances"]:
            key = (trader.account_id, balance["asset"])
            answers.balances[key] = (parse_decimal(balance["free"]), parse_decimal(balance["locked"]))
        if not account["canTrade"]:
            answers.frozen.append(trader.account_id)
        answers.open_orders += _open_orders(evidence, trader.account_id, orders)
    for symbol in evidence.markets.by_symbol:
        try:
            book = request(f"{settings.rest_url()}/api/v3/depth?symbol={symbol}&limit=5000")
        except (RequestError, ValueError):
            continue
        answers.books[symbol] = Book(book["lastUpdateId"], dict(book["bids"]), dict(book["asks"]))
    with connect(settings) as client:
        answers.audits = audit(client, list(range(settings.shard_count)), AUDIT_S)
        configs = by_symbol(known_configs(client, range(settings.shard_count)).values())
        answers.statuses = {symbol: config.status.name for symbol, config in configs.items()}
    return answers


def replay(environment: Mapping[str, str], answers: Answered) -> None:
    """Replay each shard's log with `exchange replay`, and record differences from its events and state."""
    command = (*EXCHANGE, "replay", "--verify", "--json")
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=REPLAY_S, check=False
    )
    try:
        reports = json.loads(done.stdout)
    except ValueError:
        answers.replay_differences.append(
            f"the replay ended with {done.returncode}: {done.stdout}{done.stderr}"[-2_000:]
        )
        return
    for shard, report in enumerate(reports):
        answers.replayed += report["verdict"]["commands"]
        if not report["same"]:
            answers.replay_differences.append(f"shard {shard}: {report['verdict']['difference']}")


def _open_orders(evidence: Evidence, account_id: int, orders: list[Any]) -> Iterator[OpenOrder]:
    for order in orders:
        market = evidence.markets.by_symbol[order["symbol"]]
        leaves = parse_decimal(order["origQty"]) - parse_decimal(order["executedQty"])
        yield OpenOrder(
            order["orderId"],
            account_id,
            market.symbol,
            Side[order["side"]],
            parse_decimal(order["price"]) // market.tick_size,
            leaves // market.lot_size,
            OrderStatus[order["status"]],
        )


def _signed(settings: Settings, trader: Trader, path: str) -> Any:
    return signed(settings.rest_url(), trader.key, trader.secret, path, recvWindow=60_000)


def progress(settings: Settings) -> Progress | None:
    """Return how far everything is; None when Redis or the database does not answer."""
    shards = range(settings.shard_count)
    try:
        with connect(settings) as client, connect_cache(settings) as cache:
            reached = Progress(
                inputs=[_last_id(client, streams.commands(shard)) for shard in shards],
                events=[_last_id(client, streams.events(shard)) for shard in shards],
                undelivered=sum(int(client.xlen(streams.outbox(shard))) for shard in shards),
            )
            for shard in shards:
                position: Any = client.get(streams.position(shard))
                reached.positions.append(ShardPosition.parse(position).stream_id)
                published: Any = cache.hget(streams.feeds_state(shard), "published_id")
                reached.published.append(StreamId.parse(published) if published else STREAM_START)
        with psycopg.connect(
            settings.resolved_database_url(), connect_timeout=1, options="-c statement_timeout=1000"
        ) as database:
            rows = {
                shard: (last_id, error)
                for shard, last_id, error in database.execute(
                    "SELECT shard, last_id, error FROM ingest"
                ).fetchall()
            }
    except (redis.RedisError, psycopg.Error):
        return None
    reached.stored = [StreamId.parse(rows[shard][0]) if shard in rows else STREAM_START for shard in shards]
    reached.errors = [
        f"the ingest of shard {shard} stands still: {error}" for shard, (_, error) in rows.items() if error
    ]
    return reached


def epoch(settings: Settings, shard: int) -> int:
    """Return how often somebody has taken the shard over; -1 when Redis does not answer."""
    try:
        with connect(settings) as client:
            position: Any = client.get(streams.position(shard))
    except redis.RedisError:
        return -1
    return ShardPosition.parse(position).epoch


def _last_id(client: redis.Redis, stream: str) -> StreamId:
    try:
        information: Any = client.xinfo_stream(stream)
    except redis.ResponseError:
        return STREAM_START
    return StreamId.parse(information["last-generated-id"])


def dead_letters(settings: Settings) -> int:
    """Return the number of dead letters of all shards in Redis."""
    with connect(settings) as client:
        return sum(int(client.xlen(streams.dead_letters(shard))) for shard in range(settings.shard_count))


def log_lines(settings: Settings) -> tuple[list[str], int]:
    """Return what processes said that stopped themselves over a broken promise, and how many were fenced."""
    critical, fenced = [], 0
    for file in log_folder(settings).glob("*.log*"):
        for line in file.read_text("utf-8", errors="replace").splitlines():
            if any(text in line for text in STOPPED):
                critical.append(f"{file.stem}: {line[:300]}")
            fenced += FENCED in line
    return critical, fenced
