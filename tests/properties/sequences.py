"""Random command sequences: eight bytes make one command, so that hypothesis shrinks by dropping and zeroing
bytes."""

import msgspec
from hypothesis import strategies as st

from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    CloseAccount,
    Deposit,
    PlaceOrder,
    Withdraw,
    WithdrawFees,
)
from protocol.orders import OrderTerms, OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.units import AMOUNT_UNITS_MAX, AccountId, AssetUnits, OrderId, PriceTicks, QuantityLots
from tests.oracle.exchange import AnyCommand
from tests.properties.markets import MARKETS

ACCOUNTS = (1, 2, 3, 4)
"""Account 4 is poor; with three shards, 1 and 4 share one."""
SWEEPER = 5
"""An account with enough of everything to trade the books empty, which shows who stood where."""
NEWCOMER = AccountId(6)
"""Begins with nothing, comes to little, and is closed now and then."""
LENGTH_MAX = 40

_ASSETS = ("FIG", "KIWI", "PLUM")
_SYMBOLS = tuple(market.symbol for market in MARKETS)
_GARBAGE = (0, -1, AMOUNT_UNITS_MAX, 1, 61, AMOUNT_UNITS_MAX // 2)
_KINDS = (
    (OrderType.LIMIT, TimeInForce.GTC),
    (OrderType.LIMIT, TimeInForce.GTC),
    (OrderType.LIMIT, TimeInForce.GTC),
    (OrderType.LIMIT, TimeInForce.GTC),
    (OrderType.LIMIT, TimeInForce.IOC),
    (OrderType.LIMIT, TimeInForce.FOK),
    (OrderType.LIMIT_MAKER, TimeInForce.GTC),
    (OrderType.MARKET, TimeInForce.IOC),
    (OrderType.LIMIT, TimeInForce.GTC),
    (OrderType.LIMIT, TimeInForce.GTC),
    (OrderType.MARKET, TimeInForce.IOC),
    (OrderType.MARKET, TimeInForce.IOC),
)

seeds = st.lists(st.binary(min_size=8, max_size=8), min_size=LENGTH_MAX, max_size=LENGTH_MAX)
"""What `commands_of` reads.

Eight zero bytes say nothing, so a shrunk sequence is short although the list is not.
"""


def endowment() -> list[AnyCommand]:
    """Return the deposits that every sequence starts with."""
    return [
        Deposit(0, "test", AccountId(account), asset, AssetUnits(_start(account, asset)), f"start-{asset}")
        for account in (*ACCOUNTS, SWEEPER)
        for asset in _ASSETS
    ]


def _start(account: int, asset: str) -> int:
    if account == SWEEPER:
        return 1_000_000
    if account == 4:
        return 700
    return 25_000 if asset == "FIG" else 9_000


def sweeps() -> list[PlaceOrder]:
    """Return orders that take whatever rests, from front to back."""
    return [
        PlaceOrder(
            request_id=9_000 + number,
            reply_to="test",
            account_id=AccountId(SWEEPER),
            client_order_id=f"sweep-{market.symbol}-{side.name}-{number}",
            market=market.symbol,
            side=side,
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.IOC,
            price=market.price_max if side is Side.BUY else PriceTicks(1),
            quantity=market.quantity_max,
            self_trade_prevention=SelfTradePrevention.NONE,
        )
        for market in MARKETS
        for side in Side
        for number in range(2)
    ]


def commands_of(seed: list[bytes]) -> list[AnyCommand]:
    """Return the commands that the bytes stand for."""
    commands: list[AnyCommand] = []
    placed: list[PlaceOrder] = []
    repeatable: list[AnyCommand] = []
    for number, octets in enumerate(seed, start=1):
        if not any(octets):
            continue
        command = _command_of(octets, number, placed, repeatable)
        if command.request_id == number:
            repeatable.append(command)
        if isinstance(command, PlaceOrder) and command.request_id == number:
            placed.append(command)
        commands.append(command)
    return commands


def _command_of(
    octets: bytes, number: int, placed: list[PlaceOrder], repeatable: list[AnyCommand]
) -> AnyCommand:
    what, who, *rest = octets
    account = AccountId(ACCOUNTS[who % 4])
    market = MARKETS[max(0, who // 4 % 8 - 5)]
    earlier = placed[-1 - rest[0] % min(len(placed), 10)] if placed else None
    match what % 16:
        case 12 if earlier is not None:
            return _cancel(rest, number, earlier)
        case 13 if rest[1] % 4 == 0:
            return CancelAllOrders(
                number, "test", account, market.symbol if rest[2] % 8 else "NONE", f"x{number}"
            )
        case 13 if repeatable:
            return repeatable[-1 - rest[0] % min(len(repeatable), 24)]
        case 11 if earlier is not None and rest[1] % 2 == 0:
            # Another request of the client for the same, or with the same key for something else.
            quantity = QuantityLots(earlier.quantity + (rest[2] % 4 == 0))
            return msgspec.structs.replace(earlier, request_id=number, quantity=quantity)
        case 14 if rest[5] % 4 == 0:
            transfer = rest[3] % 3
            fee = AssetUnits(1 + transfer if rest[2] % 4 else rest[4] % 64)
            return WithdrawFees(number, "test", 0, _ASSETS[transfer], fee, f"f{transfer}")
        case 15 if rest[5] % 8 == 0:
            return CloseAccount(number, "test", account if rest[0] % 4 == 0 else NEWCOMER)
        case 14 | 15 if rest[5] % 8 == 1:
            kind = Deposit if what % 2 else Withdraw
            key = f"k{rest[4] % 3}" if rest[4] % 4 < 2 else ""
            return kind(number, "test", NEWCOMER, "FIG", AssetUnits(1 + rest[2] % 2), f"t{rest[3]}", key)
        case 14 | 15 if rest[5] % 8 == 2:
            poor = AccountId(ACCOUNTS[-1])
            return Withdraw(
                number, "test", poor, _ASSETS[rest[0] % 3], AssetUnits(3 * rest[2]), f"t{rest[3]}"
            )
        case 14 | 15:
            kind = Deposit if what % 2 else Withdraw
            asset = _ASSETS[rest[0] % 3] if rest[0] % 16 else "NONE"
            amount = AssetUnits(_GARBAGE[rest[2] % 6] if rest[1] % 4 == 0 else 10 * rest[2])
            key = f"k{rest[4] % 3}" if rest[4] % 16 < 2 else ""
            return kind(number, "test", account, asset, amount, f"t{rest[3] % 12}", key)
    return _place(rest, number, account, market.symbol, earlier)


def _place(
    rest: list[int], number: int, account: AccountId, symbol: str, earlier: PlaceOrder | None
) -> PlaceOrder:
    shape, price, size, prevention, oddity, odder = rest
    side = Side.BUY if shape % 2 else Side.SELL
    order_type, time_in_force = _KINDS[shape // 2 % len(_KINDS)]
    quantity, quote_quantity = 1 + size % 40, 0
    if order_type is OrderType.MARKET and size >= 100:
        quantity, quote_quantity = 0, (size - 99) * 10
    limit = 3 + price % 4 if price < 224 else 1 + price % 9
    if order_type is OrderType.MARKET and price >= 64:
        limit = 9 if side is Side.BUY else 1
    client_order_id = f"o{number}"
    match oddity % 64:
        case 1:
            limit = _GARBAGE[odder % 6]
        case 2:
            quantity = _GARBAGE[odder % 6]
        case 3:
            quote_quantity = _GARBAGE[odder % 6]
        case 4:
            symbol = "NONE"
        case 5:
            order_type, time_in_force = OrderType(1 + odder % 3), TimeInForce(1 + odder // 3 % 3)
        case 8 | 9 | 10 | 11 | 12 | 13:
            # Money that does not come out even, or more than an order may buy for.
            order_type, time_in_force, limit = OrderType.MARKET, TimeInForce.IOC, 9 if side is Side.BUY else 1
            quantity, quote_quantity = 0, 8_000 if odder % 4 == 0 else 90 + 7 * odder + size
        case 14 | 15 | 16 | 17 if earlier is not None and earlier.quantity:
            # Money for one lot more than an order before this has, which is too little where the next order
            # wants more for it.
            symbol, side = earlier.market, earlier.side.opposite
            order_type, time_in_force, limit = OrderType.MARKET, TimeInForce.IOC, 9 if side is Side.BUY else 1
            per_lot = earlier.price * next(
                (each.quote_per_tick_lot for each in MARKETS if each.symbol == symbol), 1
            )
            quantity, quote_quantity = 0, min((earlier.quantity + 1) * per_lot, AMOUNT_UNITS_MAX)
        case 6 | 7 if earlier is not None:
            client_order_id = earlier.client_order_id
    # With a protective price, as before, every fourth; more where much money shall meet much.
    by_book = order_type is OrderType.MARKET and prevention % 16 >= (4 if quote_quantity < 8_000 else 12)
    if by_book:
        # What the gateway expects of a price: about what it is, so that it is too little now and then.
        is_estimated = side is Side.BUY and quantity and not quote_quantity
        limit = (3 + price % 5 if odder % 3 else limit) if is_estimated else odder % 64 == 1
    elif oddity % 64 == 18:
        by_book = True
    return PlaceOrder(
        request_id=number,
        reply_to="test",
        account_id=account,
        client_order_id=client_order_id,
        market=symbol,
        side=side,
        order_type=order_type,
        time_in_force=time_in_force,
        price=PriceTicks(limit),
        quantity=QuantityLots(quantity),
        quote_quantity=AssetUnits(quote_quantity),
        self_trade_prevention=SelfTradePrevention(prevention % 4),
        terms=OrderTerms(strategy_id=odder) if oddity % 16 == 3 else None,
        idempotency_key=f"k{odder % 5}" if oddity % 64 >= 56 else "",
        bound_by_book=by_book,
    )


def _cancel(rest: list[int], number: int, earlier: PlaceOrder) -> CancelOrder:
    _, how, wrong, guess, *_ = rest
    account = earlier.account_id if wrong % 16 else AccountId(ACCOUNTS[wrong // 16 % 4])
    symbol = earlier.market if wrong % 16 != 1 else _SYMBOLS[wrong // 16 % 3]
    by_id = how % 4 == 0
    order_id = OrderId(guess % 12 * 100 + account % 3) if by_id or how % 16 == 1 else OrderId(0)
    client_order_id = "" if by_id else earlier.client_order_id
    return CancelOrder(
        number, "test", account, symbol, order_id, client_order_id, f"x{number}" if guess % 2 else ""
    )
