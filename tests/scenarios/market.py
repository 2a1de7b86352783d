"""Reads and plays scenarios: orders in, the book and the balances drawn as text.

A scenario is a text file of lines like these, read from top to bottom; `#` starts a comment, the first one is
the title:

    fees maker 0.001 taker 0.002           (fractions; before anything else; without it there are none)
    open orders 3                          (of one person in all markets; default: the market's maximum, 5)
    slippage 0.1                           (of MARKET orders; without it 0.05)
    band 0.5 2                             (fractions of the last price; without it 0.1 and 10)
    decimals ACME 2 CASH 0                 (of the assets' smallest units; without it 8 and 8)
    alice deposits 10 ACME                 (`=>` precedes the outcome; without it the step must succeed)
    alice withdraws 99 ACME                => insufficient_balance
    alice sells 3 @ 101                    => NEW
    bob buys 5 @ 101 IOC                   => EXPIRED 3 @ 101
    bob buys 2 @ 90 as bid                 (a name for cancels; `post-only`, `GTC`, `IOC`, `FOK` may precede)
    bob buys 2 at market up to 120         (its protective price; `sells … down to`)
    bob buys for 250 CASH at market up to 120
    bob buys 2 at market                   (its market bounds it; `expecting 120`: its gateway's estimate)
    bob buys 2 @ 90 if-own expire-taker    (self-trade: trade, expire-taker, expire-maker, expire-both)
    bob cancels bid                        => CANCELED
    bob cancels all                        => 2
    book                                   (then its levels, best in the middle: bid lots | price | ask lots)
          | 102 | 4
          | 101 | 3
        2 |  90 |
    alice has 7 ACME + 3 held, 0.5 CASH    (all that she has)

The market is ACME/CASH: a tick is 1 CASH, a lot is 1 ACME.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from protocol.commands import CancelAllOrders, CancelOrder, Command, Deposit, PlaceOrder, Withdraw
from protocol.market import Market, MarketMap
from protocol.orders import OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.replies import FundsReply, OrderReply, OrdersReply, Refused, Reply
from protocol.units import (
    UNITS_PER_ASSET,
    AccountId,
    AssetUnits,
    OrderId,
    PriceTicks,
    QuantityLots,
    format_amount,
    parse_decimal,
)

SYMBOL = "ACMECASH"
HEADS = ("fees", "band", "decimals", "matches", "slippage", "open")
PRICE_MAX = PriceTicks(10_000)
PEOPLE = ("alice", "bob", "carol", "dave")
OWN_ORDERS = {
    "trade": SelfTradePrevention.NONE,
    "expire-taker": SelfTradePrevention.EXPIRE_TAKER,
    "expire-maker": SelfTradePrevention.EXPIRE_MAKER,
    "expire-both": SelfTradePrevention.EXPIRE_BOTH,
}

_PERSON = rf"(?P<who>{'|'.join(PEOPLE)})"
_TRANSFER = re.compile(rf"{_PERSON} (?P<verb>deposits|withdraws) (?P<amount>\S+) (?P<asset>\w+)")
_ORDER = re.compile(
    rf"{_PERSON} (?P<verb>buys|sells) (?:(?P<lots>-?\d+)|for (?P<quote>-?[\d.]+) CASH)"
    r" (?:@ (?P<limit>-?\d+)|(?P<market>at market)(?: (?:up|down) to (?P<worst>\d+)| expecting "
    r"(?P<estimate>\d+))?)(?P<post_only> post-only)?(?: (?P<time_in_force>GTC|IOC|FOK))?(?: if-own "
    rf"(?P<own>{'|'.join(OWN_ORDERS)}))?(?: as (?P<name>\w+))?"
)
_CANCEL = re.compile(rf"{_PERSON} cancels (?P<name>\w+)")
_HAS = re.compile(rf"{_PERSON} has (?P<funds>.+)")
_LEVEL = re.compile(r"(?P<bid>\d*) *\| *(?P<price>\d+) *\| *(?P<ask>\d*)")


class Played(Protocol):
    """What a scenario can be played on: the engine, or the oracle."""

    def reply_to(self, command: Command, time: int) -> Reply:
        """Apply the command and return its reply."""

    def levels(self, symbol: str, side: Side) -> list[tuple[int, int]]:
        """Return one half of a book as (price, lots), best price first."""

    def balances(self, account_id: int) -> dict[str, tuple[int, int]]:
        """Return asset -> (available, held), without assets of which there is nothing."""


@dataclass
class Scenario:
    """A scenario's lines, each with its number in the file."""

    title: str
    lines: list[tuple[int, str]]
    maker_fee: str = "0"
    taker_fee: str = "0"
    band_down: str = "0.1"
    band_up: str = "10"
    matches_max: int = 2_000
    slippage: str = "0.05"
    open_orders_max: int = 0
    scales: dict[str, int] = field(default_factory=lambda: {"ACME": 8, "CASH": 8})

    @classmethod
    def read(cls, path: Path) -> "Scenario":
        """Read the file at `path`; its head names fees, band, decimals, matches, slippage and open orders."""
        texts = path.read_text(encoding="utf-8").splitlines()
        lines = [(number, text.partition("#")[0].rstrip()) for number, text in enumerate(texts, start=1)]
        scenario = cls(
            title=texts[0].lstrip("# "), lines=[(number, text) for number, text in lines if text.strip()]
        )
        while scenario.lines[0][1].split()[0] in HEADS:
            match scenario.lines.pop(0)[1].split():
                case ["fees", "maker", maker_fee, "taker", taker_fee]:
                    scenario.maker_fee, scenario.taker_fee = maker_fee, taker_fee
                case ["band", band_down, band_up]:
                    scenario.band_down, scenario.band_up = band_down, band_up
                case ["matches", most]:
                    scenario.matches_max = int(most)
                case ["open", "orders", most]:
                    scenario.open_orders_max = int(most)
                case ["slippage", slippage]:
                    scenario.slippage = slippage
                case ["decimals", "ACME", acme, "CASH", cash]:
                    scenario.scales = {"ACME": int(acme), "CASH": int(cash)}
                case words:
                    raise ValueError(f"{path.name}: not understood: {' '.join(words)}")
        return scenario

    def market_map(self, shard_count: int) -> MarketMap:
        """Return the scenario's one market, on that many shards."""
        market = Market(
            symbol=SYMBOL,
            base="ACME",
            quote="CASH",
            tick_size=UNITS_PER_ASSET,
            lot_size=UNITS_PER_ASSET,
            price_max=PRICE_MAX,
            quantity_min=QuantityLots(1),
            quantity_max=QuantityLots(1_000),
            notional_min=AssetUnits(5 * 10 ** self.scales["CASH"]),
            band_up_ppm=parse_decimal(self.band_up, 6),
            band_down_ppm=parse_decimal(self.band_down, 6),
            maker_fee_ppm=parse_decimal(self.maker_fee, 6),
            taker_fee_ppm=parse_decimal(self.taker_fee, 6),
            open_orders_max=5,
            matches_max=self.matches_max,
            market_slippage_ppm=parse_decimal(self.slippage, 6),
            base_scale=self.scales["ACME"],
            quote_scale=self.scales["CASH"],
        )
        return MarketMap.of([market], shard_count)

    def play(self, exchange: Played) -> None:
        """Play every line.

        Raises:
            AssertionError: with the line at which something else came than is written.
        """
        lines = list(self.lines)
        while lines:
            number, text = lines.pop(0)
            said, _, expected = (part.strip() for part in text.partition("=>"))
            if said == "book":
                drawn = []
                while lines and _LEVEL.fullmatch(lines[0][1].strip()):
                    drawn.append(lines.pop(0)[1].strip())
                levels = [_LEVEL.fullmatch(row) for row in drawn]
                expected_book = [(row["bid"], int(row["price"]), row["ask"]) for row in levels if row]
                assert draw(exchange) == expected_book, f"line {number}: {draw(exchange)}"
            elif has := _HAS.fullmatch(said):
                funds = tell_funds(exchange.balances(account_of(has["who"])), self.scales)
                assert funds == has["funds"], f"line {number}: {has['who']} has {funds}"
            else:
                came = tell(exchange.reply_to(command_of(said, number, self.scales), number), self.scales)
                assert came == expected or (not expected and "_" not in came), (
                    f"line {number}: {said} => {came}"
                )


def account_of(person: str) -> AccountId:
    """Return the person's account."""
    return AccountId(1 + PEOPLE.index(person))


def command_of(said: str, number: int, scales: dict[str, int]) -> Command:
    """Return the command that a line asks for.

    Raises:
        ValueError: the line is not understood.
    """
    if transfer := _TRANSFER.fullmatch(said):
        kind = Deposit if transfer["verb"] == "deposits" else Withdraw
        amount = AssetUnits(parse_decimal(transfer["amount"], scales.get(transfer["asset"], 8)))
        return kind(
            number, "scenario", account_of(transfer["who"]), transfer["asset"], amount, f"line-{number}"
        )
    if order := _ORDER.fullmatch(said):
        at_market, by_book = (
            order["market"] is not None,
            order["market"] is not None and order["worst"] is None,
        )
        is_estimated = order["verb"] == "buys" and order["lots"]
        unknown = str(PRICE_MAX) if by_book and is_estimated else "0"
        order_type = (
            OrderType.MARKET
            if at_market
            else OrderType.LIMIT_MAKER
            if order["post_only"]
            else OrderType.LIMIT
        )
        return PlaceOrder(
            request_id=number,
            reply_to="scenario",
            account_id=account_of(order["who"]),
            client_order_id=order["name"] or f"line-{number}",
            market=SYMBOL,
            side=Side.BUY if order["verb"] == "buys" else Side.SELL,
            order_type=order_type,
            time_in_force=TimeInForce[order["time_in_force"] or ("IOC" if at_market else "GTC")],
            price=PriceTicks(int(order["worst"] or order["limit"] or order["estimate"] or unknown)),
            quantity=QuantityLots(int(order["lots"] or 0)),
            quote_quantity=AssetUnits(parse_decimal(order["quote"] or "0", scales["CASH"])),
            self_trade_prevention=OWN_ORDERS[order["own"] or "expire-maker"],
            bound_by_book=by_book,
        )
    if cancel := _CANCEL.fullmatch(said):
        account = account_of(cancel["who"])
        if cancel["name"] == "all":
            return CancelAllOrders(number, "scenario", account, SYMBOL)
        return CancelOrder(number, "scenario", account, SYMBOL, OrderId(0), cancel["name"])
    raise ValueError(f"line {number} is not understood: {said}")


def tell(reply: Reply, scales: dict[str, int]) -> str:
    """Return a reply as a scenario writes it."""
    match reply:
        case Refused():
            return str(reply.reason)
        case OrderReply():
            return " ".join(
                [reply.order.status.name, *(f"{fill.quantity} @ {fill.price}" for fill in reply.fills)]
            )
        case OrdersReply():
            return str(len(reply.orders))
        case FundsReply():
            return tell_funds({row.asset: (row.available, row.held) for row in reply.balances}, scales)
    raise AssertionError(reply)


def tell_funds(funds: dict[str, tuple[int, int]], scales: dict[str, int]) -> str:
    """Return balances as a scenario writes them."""
    told = []
    for asset, (available, held) in sorted(funds.items()):
        free, locked = (_short(amount, scales[asset]) for amount in (available, held))
        told.append(f"{free} {asset}" + (f" + {locked} held" if held else ""))
    return ", ".join(told) or "nothing"


def draw(exchange: Played) -> list[tuple[str, int, str]]:
    """Return the book as rows (bid lots, price, ask lots), the highest price first."""
    asks = [("", price, str(lots)) for price, lots in reversed(exchange.levels(SYMBOL, Side.SELL))]
    return asks + [(str(lots), price, "") for price, lots in exchange.levels(SYMBOL, Side.BUY)]


def _short(amount: int, scale: int) -> str:
    return re.sub(r"\.?0+$", "", format_amount(amount, scale))
