"""Whether a shard's state adds up: its books of money, and everything that must always be true of it.

`check_money` is asked of every batch before it is published, so it costs O(assets). `check_invariants` adds
up everything anew, O(state): beside each snapshot, and when one is restored
(docs/decisions/0013-state-hash-and-halt.md).
"""

import hashlib
from collections import Counter

from engine_worker.core.enums import BUY, IN_FLIGHT
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.shard_state import ShardState
from protocol.codec import encode_as
from protocol.replies import AuditRow


def digest(state: ShardState) -> str:
    """Return what a `StateHashed` says of the state, in hex.

    It costs the same however many accounts and orders there are.

    Events not yet taken count only after the next `take`, or when they came before a `StateHashed`.
    """
    totals = [(asset, *total.stored()) for asset, total in sorted(state.totals.items())]
    markets = [
        (
            *(
                symbol,
                market.last_price,
                market.sequence,
                market.trade_id,
                market.aggregate_id,
                len(market.book.orders),
            ),
            market.prevented_id,
            *(
                (half.best.price, half.best.quantity, half.best.order_count)
                if half.best is not None
                else None
                for half in (market.book.bids, market.book.asks)
            ),
        )
        for symbol, market in sorted(state.markets.items())
    ]
    configs = (state.config, [config for _, config in sorted(state.market_configs.items())])
    counts = (state.time, state.index, state.command_count, state.order_count, len(state.accounts))
    work = (state.execution_count, list(state.drains), sorted(state.authority.given.items()))
    mail = (sorted(state.received.items()), sorted(state.sent.items()))
    hashed = encode_as(state.format, (state.checksum, counts, mail, totals, markets, configs, work))
    return hashlib.blake2b(hashed, digest_size=16).hexdigest()


def books(state: ShardState) -> list[AuditRow]:
    """Return the kept totals: (asset, available, held, fees, deposited, withdrawn, settled). O(assets).

    Whether the accounts have that much `check_invariants` asks, which every snapshot's process does.
    """
    return [
        (
            asset,
            each.funds - each.held,
            each.held,
            each.fees,
            each.deposited,
            each.withdrawn,
            each.settled,
        )
        for asset, each in sorted(state.totals.items())
    ]


def recount(state: ShardState) -> list[AuditRow]:
    """Return what `books` returns, added up anew: O(accounts × assets)."""
    rows = []
    for asset, totals in sorted(state.totals.items()):
        funds = [account.funds[asset] for account in state.accounts.values() if asset in account.funds]
        available, held = sum(each.available for each in funds), sum(each.held for each in funds)
        rows.append((asset, available, held, totals.fees, totals.deposited, totals.withdrawn, totals.settled))
    return rows


def check_money(state: ShardState) -> None:
    """Compare what the accounts gained and lost with what came in, went out and was settled. O(assets).

    Raises:
        InvariantBroken: naming the asset, and how much too much or too little of it there is.
    """
    for asset, totals in state.totals.items():
        if difference := totals.difference():
            raise InvariantBroken(
                f"{asset}: money is not conserved: the accounts have {totals.funds} and the fees are "
                f"{totals.fees}, {difference:+d} against deposited {totals.deposited} - withdrawn "
                f"{totals.withdrawn} + settled {totals.settled}"
            )
        if state.shard_count == 1 and totals.settled:
            raise InvariantBroken(
                f"{asset}: money is not conserved: the two sides of a trade differ by {totals.settled}"
            )
        if not 0 <= totals.held <= totals.funds or totals.fees < 0:
            raise InvariantBroken(
                f"{asset}: of {totals.funds} that the accounts have {totals.held} are held, the fees are "
                f"{totals.fees}"
            )


def check_invariants(state: ShardState) -> None:
    """Add everything up anew.

    Raises:
        InvariantBroken: naming what is not as it must always be.
    """
    check_money(state)
    for asset, available, held, fees, deposited, withdrawn, settled in recount(state):
        if available + held + fees != deposited - withdrawn + settled:
            raise InvariantBroken(
                f"{asset}: available {available} + held {held} + fees {fees} is not "
                f"deposited {deposited} - withdrawn {withdrawn} + settled {settled}"
            )
        kept = state.totals[asset]
        if (kept.held, kept.funds) != (held, available + held):
            raise InvariantBroken(
                f"{asset}: the books say held {kept.held} of {kept.funds}, the accounts have held {held} "
                f"of {available + held}"
            )
    open_orders = sum(len(orders) for each in state.accounts.values() for orders in each.open_orders.values())
    if open_orders != state.open_order_count:
        raise InvariantBroken(
            f"{state.open_order_count} open orders are counted, the accounts have {open_orders}"
        )
    in_flight: Counter[int] = Counter()
    for account in state.accounts.values():
        for symbol, orders in account.open_orders.items():
            in_flight[state.market_map.shards[symbol]] += sum(
                order.status is IN_FLIGHT for order in orders.values()
            )
    if +in_flight != +Counter(state.in_flight):
        raise InvariantBroken(
            f"{dict(state.in_flight)} orders are counted in flight, the accounts have {dict(in_flight)}"
        )
    for account in state.accounts.values():
        holds: dict[str, int] = {}
        if len(account.client_order_ids) != sum(map(len, account.open_orders.values())):
            raise InvariantBroken(
                f"account {account.account_id}: a client order id has no open order, or two have it"
            )
        for symbol, orders in account.open_orders.items():
            market = state.market_map.by_symbol[symbol]
            for order in orders.values():
                asset = market.quote if order.side is BUY else market.base
                holds[asset] = holds.get(asset, 0) + order.held
        for asset, funds in account.funds.items():
            if funds.held != holds.get(asset, 0) or min(funds.held, funds.available) < 0:
                raise InvariantBroken(
                    f"account {account.account_id}: held {asset} is {funds.held}, its orders hold "
                    f"{holds.get(asset, 0)}"
                )
    for symbol, own in state.markets.items():
        bid, ask = own.book.bids.best, own.book.asks.best
        if bid is not None and ask is not None and bid.price >= ask.price:
            raise InvariantBroken(f"{symbol}: the book is crossed, {bid.price} >= {ask.price}")
