# mypy: disable-error-code="arg-type, union-attr, return-value, misc, no-any-return, unused-ignore"

"""Random commands from a seed, with the edges of every number among them.

It knows nothing of an exchange but the order ids it is told.
"""

import random
from typing import Any, Final

from protocol.commands import (
    CancelAllOrders,
    CancelOrder,
    CancelOrders,
    CloseAccount,
    ConfigureMarket,
    ConfigureShard,
    Deposit,
    LimitAccount,
    PlaceOrder,
    Withdraw,
    WithdrawFees,
)
from protocol.configuration import AccountLimits, MarketConfig, MarketStatus, ShardConfig
from protocol.market import Market
from protocol.orders import OrderTerms, OrderType, SelfTradePrevention, Side, TimeInForce
from protocol.windows import Windows

LARGEST: Final = 2**63 - 1
START: Final = 1_700_000_000_000
ACCOUNTS: Final = (1, 2, 3, 4, 5)
NAMES: Final = ("a", "b", "c", "d", "e", "f", "g", "h")
FEES: Final = (0, 1, 1_000, 2_500, 333_333, 999_999)
PAUSES: Final = (
    1_000,
    9_999,
    10_000,
    49_999,
    50_000,
    50_001,
    600_000,
    600_001,
    86_400_000,
    7 * 86_400_000 + 1,
)

_UNIT: Final = 10**8
_BOUND_PRICE: Final = 960_383_883

GRIDS: Final[dict[str, dict[str, Any]]] = {
    "AB": {
        "base": "A", "quote": "B", "tick_size": _UNIT, "lot_size": _UNIT, "base_scale": 2, "quote_scale": 2,
        "price_max": 1_000, "quantity_max": 1_000, "notional_min": 1_000,
    },
    "CB": {
        "base": "C", "quote": "B", "tick_size": 10**6, "lot_size": _UNIT, "base_scale": 0, "quote_scale": 2,
        "price_max": 100_000, "quantity_max": 10**6, "notional_min": 0,
    },
    "AC": {
        "base": "A", "quote": "C", "tick_size": _UNIT, "lot_size": 3 * _UNIT, "base_scale": 2,
        "quote_scale": 0,
        "price_max": 500, "quantity_max": 50, "notional_min": 7,
    },
    "DE": {
        "base": "D", "quote": "E", "tick_size": 10**4, "lot_size": 10**4, "base_scale": 8, "quote_scale": 8,
        "price_max": _BOUND_PRICE, "quantity_max": LARGEST // 10 // _BOUND_PRICE, "notional_min": 5,
    },
    "DB": {
        "base": "D", "quote": "B", "tick_size": 10**6, "lot_size": _UNIT, "base_scale": 8, "quote_scale": 2,
        "price_max": LARGEST // 10, "quantity_max": 1, "notional_min": 1,
    },
}  # fmt: skip
ASSETS: Final = ("A", "B", "C", "D", "E")
SYMBOLS: Final = tuple(GRIDS)


class Generator:
    """One random history. `next` returns (command, shard, time); `learn` is told of order ids."""

    def __init__(self, seed: str, shard_count: int) -> None:
        self.random = random.Random(seed)
        self.count = shard_count
        self.time = START + self.random.randrange(100_000)
        self.requests = 0
        self.order_ids: list[tuple[int, int, str]] = []
        self.earlier: list[tuple[Any, int]] = []
        self.versions: dict[str, int] = {}
        self.markets: dict[str, dict[str, Any]] = {}
        self.shard_versions = [0] * shard_count
        self.limit_versions: dict[int, int] = {}
        self.is_calm = self.random.random() < 0.6
        """Few configurations, so that more is traded."""
        self.is_high = self.random.random() < 0.4
        """DE trades at its largest price."""
        self.supplies = {asset: self.random.choice((0, 0, 10**5, 10**6)) for asset in "ABC"}
        self.queue: list[tuple[Any, int]] = [
            (self.shard_config(shard, True), shard) for shard in range(shard_count)
        ]
        self.queue += [self.market_config(symbol, first=True) for symbol in SYMBOLS]
        for account_id in ACCOUNTS:
            for asset in ASSETS:
                share = self.share(asset)
                amount = self.random.choice(
                    (share // 6, share // 6, share // 7, share // 8, share // 20, share, 10**5)
                )
                self.queue.append(self.deposit(account_id, asset, max(1, amount)))

    def learn(self, order_id: int, account_id: int, symbol: str) -> None:
        """Remember an order for cancels."""
        self.order_ids.append((order_id, account_id, symbol))
        del self.order_ids[:-12]

    def next(self) -> tuple[Any, int, int]:
        """Return the next command, the shard that it enters at, and its time."""
        r = self.random
        if self.queue:
            command, shard = self.queue.pop(0)
            self.time += 1
        else:
            dice = r.random()
            self.time += r.choice((0, 1, 1, 5, 300)) if dice < 0.97 else r.choice(PAUSES)
            if r.random() < 0.03 and self.earlier:
                command, shard = r.choice(self.earlier)
            else:
                command, shard = self.fresh()
        self.earlier.append((command, shard))
        del self.earlier[:-15]
        return command, shard, self.time

    def request(self) -> int:
        """Return a request id: a new one, sometimes 0, sometimes an old one."""
        self.requests += 1
        dice = self.random.random()
        if dice < 0.02:
            return self.random.choice((0, LARGEST, max(1, self.requests - 3)))
        return self.requests

    def reply_to(self) -> str:
        """Return a reply channel."""
        return self.random.choice(("g", "g", "g", "g", "g", "h", ""))

    def key(self) -> str:
        """Return an idempotency key, mostly none."""
        return self.random.choice(("K1", "K2", "K3", "K4")) if self.random.random() < 0.08 else ""

    def share(self, asset: str) -> int:
        """Return what may come in at a shard."""
        scale = {"A": 2, "B": 2, "C": 0, "D": 8, "E": 8}[asset]
        return (self.supplies.get(asset, 0) * 10**scale or LARGEST) // self.count

    def account(self) -> int:
        """Return an account."""
        return self.random.choice(ACCOUNTS) if self.random.random() < 0.99 else 6

    def fresh(self) -> tuple[Any, int]:
        """Return a new command."""
        r = self.random
        account_id = self.account()
        shard = account_id % self.count
        dice = r.random()
        if self.is_calm and dice > 0.9 and r.random() < 0.9:
            dice = r.random() * 0.62
        symbol = r.choice(SYMBOLS[:4]) if r.random() < 0.97 else r.choice(("DB", "ZZ"))
        if dice < 0.62:
            return self.order(account_id, symbol), shard
        if dice < 0.74:
            order_id, owner, symbol_of = r.choice(self.order_ids or [(0, account_id, symbol)])
            by_name = r.random() < 0.3
            if r.random() < 0.1:
                owner = account_id
            symbol_of = symbol if r.random() < 0.05 else symbol_of
            name = r.choice(NAMES) if by_name or r.random() < 0.1 else ""
            number = 0 if by_name else order_id + (r.random() < 0.03)
            return CancelOrder(
                self.request(), self.reply_to(), owner, symbol_of, number, name, r.choice(("", "x"))
            ), owner % self.count
        if dice < 0.77:
            return CancelAllOrders(
                self.request(), self.reply_to(), account_id, symbol, r.choice(("", "y"))
            ), shard
        if dice < 0.84:
            asset = self.asset()
            return self.deposit(
                account_id, asset, self.amount(asset), r.choice(("t1", "t2", "", None, None, None))
            )
        if dice < 0.90:
            asset = self.asset()
            transfer_id = r.choice(("t1", "t2", "", f"w{self.requests}", f"w{self.requests}"))
            amount = self.amount(asset)
            return Withdraw(
                self.request(), self.reply_to(), account_id, asset, amount, transfer_id, self.key()
            ), shard  # type: ignore[return-value]
        if dice < 0.92:
            where = r.randrange(self.count)
            transfer_id = r.choice(("t1", "t2", f"f{self.requests}"))
            amount = r.choice((0, 1, 2, 10, 1_000, LARGEST))
            return WithdrawFees(
                self.request(), self.reply_to(), where, self.asset(), amount, transfer_id
            ), where
        if dice < 0.93:
            account_id = r.choice((account_id, 6, 6, 7))
            return CloseAccount(self.request(), self.reply_to(), account_id), account_id % self.count
        if dice < 0.95:
            return self.limits(account_id), shard
        if dice < 0.965:
            account_id = r.choice((account_id, 0))
            symbol = symbol if not account_id or r.random() < 0.3 else ""
            where = self.home(symbol) if not account_id else shard
            return CancelOrders(self.request(), self.reply_to(), account_id, symbol), where
        if dice < 0.975:
            where = r.randrange(self.count)
            return self.shard_config(where), where
        return self.market_config(symbol if symbol in GRIDS else "AB")

    def home(self, symbol: str) -> int:
        """Return a market's shard."""
        return SYMBOLS.index(symbol) % self.count if symbol in GRIDS else 0

    def asset(self) -> str:
        """Return an asset, seldom one that nobody knows."""
        return self.random.choice(ASSETS) if self.random.random() < 0.98 else "Z"

    def amount(self, asset: str) -> int:
        """Return an amount."""
        r = self.random
        if asset == "Z" or r.random() < 0.5:
            return r.choice((1, 2, 100, 10**4, 10**6, 10**8))
        share = self.share(asset)
        return r.choice(
            (0, 1, share - 1, share, min(share + 1, LARGEST), LARGEST, LARGEST - 1, share // 6, share // 2)
        )

    def deposit(
        self, account_id: int, asset: str, amount: int, transfer_id: str | None = None
    ) -> tuple[Any, int]:
        """Return a deposit."""
        name = f"d{self.requests}" if transfer_id is None else transfer_id
        return Deposit(
            self.request(),
            self.reply_to(),
            account_id,
            asset,
            amount,
            name,
            self.key(),  # type: ignore[arg-type]
        ), account_id % self.count

    def order(self, account_id: int, symbol: str) -> PlaceOrder:
        """Return an order, mostly a sensible one near the middle of its market."""
        r = self.random
        grid = self.markets.get(symbol) or GRIDS["AB"]
        side, order_type = r.choice(tuple(Side)), r.choices(tuple(OrderType), (7, 2, 3))[0]
        middle = min(100, grid["price_max"])
        if symbol == "DE" and self.is_high:
            middle = grid["price_max"] - 3
        price = max(1, middle + r.choice((-3, -2, -1, -1, 0, 0, 0, 1, 1, 2, 3)))
        if order_type is OrderType.LIMIT_MAKER and r.random() < 0.7:
            price += -3 if side is Side.BUY else 3
        quantity = r.randint(1, 6)
        if r.random() < 0.03:
            price = r.choice(
                (
                    0,
                    1,
                    grid["price_max"],
                    grid["price_max"] - 1,
                    grid["price_max"] + 1,
                    LARGEST,
                    middle * 5,
                    20,
                )
            )
        if r.random() < 0.06:
            most = grid["quantity_max"]
            quantity = r.choice((0, 1, most, most - 1, most + 1, LARGEST, most // 2))
        quote_quantity = 0
        time_in_force = r.choices(tuple(TimeInForce), (6, 2, 2))[0]
        if order_type is not OrderType.LIMIT and r.random() < 0.97:
            time_in_force = TimeInForce.IOC if order_type is OrderType.MARKET else TimeInForce.GTC
        if order_type is OrderType.MARKET and r.random() < 0.5:
            unit = {"AB": 100, "CB": 1, "AC": 3, "DE": 1, "DB": 1}.get(symbol, 1)
            quantity = 0
            quote_quantity = middle * unit * r.randint(1, 12) + r.choice(
                (0, 0, 1, -1, r.randrange(unit * 100))
            )
            if r.random() < 0.1:
                quote_quantity = r.choice(
                    (0, 1, grid["notional_min"], max(0, grid["notional_min"] - 1), LARGEST, LARGEST - 1)
                )
        elif r.random() < 0.01:
            quote_quantity = r.choice((1, 1_000))
        by_book = r.random() < (0.7 if order_type is OrderType.MARKET else 0.002)
        if by_book and (side is Side.SELL or quote_quantity) and r.random() < 0.98:
            price = 0
        return PlaceOrder(
            self.request(), self.reply_to(), account_id,
            r.choice(NAMES) if r.random() < 0.3 else f"o{self.requests}",
            symbol, side, order_type, time_in_force, price, quantity, quote_quantity,
            r.choice(tuple(SelfTradePrevention)),
            idempotency_key=self.key(),
            terms=self.terms(),
            bound_by_book=by_book,
        )  # type: ignore[call-arg]  # fmt: skip

    def terms(self) -> OrderTerms | None:
        """Mostly none; otherwise a strategy, now and then what no shard takes."""
        r = self.random
        if r.random() < 0.9:
            return None
        strategies = (
            OrderTerms(strategy_id=r.randint(0, 3)),
            OrderTerms(strategy_type=1_000_000),
            OrderTerms(),
        )
        strange = (OrderTerms(stop_price=5), OrderTerms(strategy_id=1, display_quantity=1), OrderTerms())  # type: ignore[arg-type]
        return r.choice(strange) if r.random() < 0.05 else r.choice(strategies[:2])

    def limits(self, account_id: int) -> LimitAccount:
        """Return limits for an account; mostly the next version, mostly harmless."""
        r = self.random
        version = self.limit_versions.get(account_id, 0) + 1
        if r.random() < 0.1:
            version = max(1, version + r.choice((-1, 1, 5)))
        else:
            self.limit_versions[account_id] = version
        none = r.random() < 0.5
        limits = AccountLimits(
            version,
            r.random() < 0.1,
            0 if none else r.choice((0, 1, 3, 10, 2**31)),
            0 if none else r.choice((0, 1, 5, 20, 2**31)),
            0 if none else r.choice((0, 30, 60, 2**31)),
        )
        return LimitAccount(self.request(), self.reply_to(), account_id, limits)  # type: ignore[arg-type]

    def shard_config(self, shard: int, first: bool = False) -> ConfigureShard:
        """Return a shard's configuration."""
        r = self.random
        version = self.shard_versions[shard] + 1
        if not first and r.random() < 0.1:
            version = max(1, version + r.choice((-1, 1)))
            return ConfigureShard(self.request(), self.reply_to(), ShardConfig(version=version))
        windows = r.choice(
            (Windows(), Windows(), Windows(50_000, 600_000, 2, 1_000_000), Windows(1, 1, 1, 1))
        )
        if not first and r.random() < 0.1:
            return ConfigureShard(
                self.request(),
                self.reply_to(),
                ShardConfig(version=version, windows=windows._replace(keys_max=0)),
            )
        self.shard_versions[shard] = version
        maintenance = (
            0
            if first
            else r.choice((0, 0, 0, LARGEST) if r.random() < 0.7 else (self.time + 1, self.time + 300))
        )
        self.requests += 1
        config = ShardConfig(
            windows=Windows() if first else windows,
            version=version,
            maintenance_from=maintenance,  # type: ignore[arg-type]
            drained_per_command=r.choice((1, 100)),
            open_orders_max=r.choice((0, 0, 1_000, 9, 4)),
        )
        if 0 < maintenance < LARGEST:
            self.queue += [self.fresh_in(r.choice(SYMBOLS[:4])) for _ in range(r.randrange(1, 8))]
            self.shard_versions[shard] += 1
            self.requests += 1
            over = ShardConfig(version=version + 1, windows=windows)
            self.queue.append((ConfigureShard(self.requests, "conf", over), shard))
        return ConfigureShard(self.requests, "conf", config)

    def market_config(self, symbol: str, first: bool = False) -> tuple[Any, int]:
        """Return a market's configuration: the first, or one that changes something, or one that must be
        refused."""
        r = self.random
        version = self.versions.get(symbol, 0) + 1
        home = self.home(symbol)
        fields = dict(self.markets.get(symbol) or GRIDS[symbol])
        if first or r.random() < 0.5:
            fields |= {
                "maker_fee_ppm": r.choice(FEES),
                "taker_fee_ppm": r.choice(FEES),
                "open_orders_max": r.choice((200, 200, 200, 8, 3) if r.random() < 0.9 else (1, 2)),
                "matches_max": r.choice((2_000, 2_000, 5, 2, 1)),
                "market_slippage_ppm": r.choice((50_000, 50_000, 10_000, 0, 999_999)),
                "quantity_min": r.choice((1, 1, 2)) if symbol != "DB" else 1,
                "band_up_ppm": r.choice((5_000_000, 10**12) if r.random() < 0.85 else (1_020_000, 1_000_001)),
                "band_down_ppm": r.choice((200_000, 0) if r.random() < 0.85 else (980_000, 999_999)),
                "base_supply": self.supplies.get(GRIDS[symbol]["base"], 0),
                "quote_supply": self.supplies.get(GRIDS[symbol]["quote"], 0),
            }
        status = MarketStatus.TRADING
        dice = r.random()
        if not first:
            if dice < 0.25:
                status = r.choice((MarketStatus.CANCEL_ONLY, MarketStatus.HALTED, MarketStatus.ANNOUNCED))
            elif dice < 0.32:
                status = MarketStatus.DELISTING
            elif dice < 0.34:
                status = MarketStatus.DELISTED
            elif dice < 0.40:
                fields["base_supply"] = r.choice((0, 10**4, 10**5))
        is_good = first or r.random() > 0.15
        wrong = dict(fields)
        wrong_home = home
        if not is_good:
            match r.randrange(5):
                case 0:
                    version = max(1, version + r.choice((-1, 1)))
                case 1:
                    wrong["tick_size"] *= 10
                    wrong["price_max"] = 10
                    wrong["quantity_max"] = 10
                case 2:
                    wrong["base"] = "Q"
                case 3:
                    wrong_home = (home + 1) % self.count
                case 4:
                    wrong["base_scale"] = 8 if fields["base_scale"] < 8 else 7
        market = Market(symbol=symbol, **wrong)
        config = MarketConfig(market, wrong_home, status, version)
        self.requests += 1
        # What it will be, for later versions; a wrong guess makes later ones outdated, which is also worth
        # trying.
        if is_good and status is not MarketStatus.DELISTED:
            self.versions[symbol] = version + (status is MarketStatus.DELISTING)
            self.markets[symbol] = fields
            if status is not MarketStatus.TRADING:
                again = MarketConfig(market, home, MarketStatus.TRADING, self.versions[symbol] + 1)
                self.versions[symbol] += 1
                for _ in range(r.randrange(1, 9)):
                    self.queue.append(self.fresh_in(symbol))
                self.queue.append((ConfigureMarket(self.requests + 1_000_000, "conf", again), home))
        return ConfigureMarket(self.requests, "conf", config), home

    def fresh_in(self, symbol: str) -> tuple[Any, int]:
        """Return a command about one market: what may be done while it is closed."""
        r = self.random
        account_id = self.account()
        match r.randrange(4):
            case 0:
                return self.order(account_id, symbol), account_id % self.count
            case 1:
                return CancelAllOrders(
                    self.request(), self.reply_to(), account_id, symbol
                ), account_id % self.count
            case 2:
                order_id, owner, symbol = r.choice(self.order_ids or [(0, account_id, symbol)])
                return CancelOrder(
                    self.request(), self.reply_to(), owner, symbol, order_id
                ), owner % self.count  # type: ignore[arg-type]
        return CancelOrders(self.request(), self.reply_to(), 0, symbol), self.home(symbol)  # type: ignore[arg-type]
