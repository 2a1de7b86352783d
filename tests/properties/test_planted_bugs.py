"""The comparison with the oracle is worth its time: each of these bugs, planted into the engine, makes it
fail.

tests/support/planting.py says how a bug is planted.
"""

import random

import pytest

from engine_worker.core import account_half
from engine_worker.core.account_half import AccountHalf
from engine_worker.core.accounts import Account
from engine_worker.core.book import Book, BookSide
from engine_worker.core.configuration import Configuration
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.matching import MarketState
from engine_worker.core.operator_commands import OperatorCommands
from engine_worker.core.outcomes import AnsweredRequests, FirstOutcomes, KeyedRequests
from engine_worker.core.replies import Replies
from engine_worker.core.shard_state import ShardState
from engine_worker.core.transfers import FundsTransfers
from protocol.market import Market, MarketMap
from tests.oracle.exchange import AnyCommand
from tests.properties.sequences import LENGTH_MAX, commands_of
from tests.properties.twins import compare_throughout
from tests.support.planting import Plant, planted

SEQUENCES_MAX = 300


PLANTS = (
    Plant("fee rounded down", account_half, "fee_of", "-(-received * fee_ppm // PPM)",
          "received * fee_ppm // PPM"),
    Plant("maker pays taker fee", account_half, "fee_of", "liquidity is MAKER", "False"),
    Plant("fee not credited to the house", AccountHalf, "_exchange", "received_totals.fees += fee", "pass"),
    Plant("improvement not released", AccountHalf, "_settle", "is_buy and order.order_type is not MARKET",
          "False"),
    Plant("time priority reversed", Book, "match", "level.first", "level.last"),
    Plant("price priority reversed", BookSide, "remove", "self.firsts[0]", "self.blocks[-1].ranks[-1]"),
    Plant("trade at the taker's price", Book, "match",
          "Match(maker.order_id, maker.account_id, level.price, traded)",
          "Match(maker.order_id, maker.account_id, price, traded)"),
    Plant("budget overspent", Book, "match", "min(traded, budget // cost_per_lot)",
          "min(traded, 1 + budget // cost_per_lot)"),
    Plant("spent order prevents", Book, "match",
          "budget is not None and budget < level.price * self.quote_per_tick_lot",
          "budget is not None and (maker.account_id != account_id or not prevention)"
          " and budget < level.price * self.quote_per_tick_lot"),
    Plant("self-trade prevention ignored", Book, "match", "maker.account_id == account_id", "False"),
    Plant("taker outlives EXPIRE_BOTH", Book, "match", "prevention is not EXPIRE_MAKER",
          "prevention is EXPIRE_TAKER"),
    Plant("maker outlives EXPIRE_BOTH", Book, "match", "prevention is not EXPIRE_TAKER",
          "prevention is EXPIRE_MAKER"),
    Plant("FOK fills in part", MarketState, "_fills_whole", "found == order.quantity", "found > 0"),
    Plant("FOK counts own orders", Book, "fillable", "prevention is not PREVENT_NOTHING", "False"),
    Plant("empty book not refused", MarketState, "_reason_not_to_spend", "not found", "False"),
    Plant("thin book not refused", MarketState, "_reason_not_to_spend",
          "cost * market.quote_per_tick_lot > order.quote_budget", "False"),
    Plant("sells what there is and no more", MarketState, "_reason_not_to_spend",
          "found == more and brings <= order.quote_budget", "False"),
    Plant("budget that pays no more expires", Book, "match",
          "Matching(matches, leaves, expired, taker_expired=False, budget_spent=True)",
          "Matching(matches, leaves, expired, taker_expired=False, budget_spent=False)"),
    Plant("quote quantity beyond the largest order", account_half, "_lots_and_budget",
          "min(lots, market.quantity_max)", "lots"),
    Plant("bound of a purchase beyond the slippage", Market, "market_bound",
          "best * (PPM + self.market_slippage_ppm) // PPM",
          "-(-best * (PPM + self.market_slippage_ppm) // PPM)"),
    Plant("bound of a sale beyond the slippage", Market, "market_bound",
          "-(-best * (PPM - self.market_slippage_ppm) // PPM)",
          "best * (PPM - self.market_slippage_ppm) // PPM"),
    Plant("MARKET order bounded by what its gateway expects", MarketState, "match_order",
          "self._bound(order) if order.bound_by_book else order.price", "order.price"),
    Plant("purchase that holds too little refused", MarketState, "_reason_to_refuse",
          "order.price * order.quantity * market.quote_per_tick_lot > budget", "True"),
    Plant("purchase beyond what it holds", MarketState, "_budget",
          "order.price * order.quantity * self.market.quote_per_tick_lot <= order.quote_budget",
          "order.price * order.quantity * self.market.quote_per_tick_lot < 0"),
    Plant("worth of a MARKET order not asked for", MarketState, "_reason_to_refuse",
          "order.bound_by_book and (reason := self._reason_of_worth(order)) is not None", "False"),
    Plant("worth counted at the best price", MarketState, "_reason_of_worth",
          "self.last_price or (best.price if best is not None else 0)",
          "best.price if best is not None else 0"),
    Plant("worth unknown before the first trade", MarketState, "_reason_of_worth",
          "best.price if best is not None else 0", "0"),
    Plant("worth at its minimum refused", MarketState, "_reason_of_worth",
          "worth < self.market.notional_min", "worth <= self.market.notional_min"),
    Plant("sale for money holds one lot", account_half, "hold_for",
          "min(available // market.base_per_lot, market.quantity_max)",
          "min(available // market.base_per_lot, 1)"),
    Plant("sale for money holds more than the largest order", account_half, "hold_for",
          "min(available // market.base_per_lot, market.quantity_max)", "available // market.base_per_lot"),
    Plant("dear book called empty", account_half, "_reason_to_expire",
          "CloseReason.PRICE_RANGE_EXCEEDED if too_dear else CloseReason.INSUFFICIENT_LIQUIDITY",
          "CloseReason.INSUFFICIENT_LIQUIDITY"),
    Plant("empty book called dear", MarketState, "match_order",
          "price_range_exceeded = opposite.best is not None", "price_range_exceeded = True"),
    Plant("LIMIT order bounded by its book", account_half, "reason_to_refuse",
          "quantity > 0 and not quote_quantity and not command.bound_by_book",
          "quantity > 0 and not quote_quantity"),
    Plant("MARKET order with two bounds", account_half, "reason_to_refuse",
          "not 1 <= price <= market.price_max if needs_price else price",
          "not 1 <= price <= market.price_max if needs_price else False"),
    Plant("one match too many", Book, "match",
          "len(matches) + len(expired) == matches_max", "len(matches) + len(expired) > matches_max"),
    Plant("prevented makers do not count as met", Book, "match", "len(matches) + len(expired)",
          "len(matches)"),
    Plant("what is left after the last match rests", MarketState, "match_order",
          "leaves > 0 and order.time_in_force is GTC and not expired_in_match and not limit_reached",
          "leaves > 0 and order.time_in_force is GTC and not expired_in_match"),
    Plant("FOK fills in part when it meets too many", MarketState, "match_order",
          "self._meets_too_many(order)", "False"),
    Plant("FOK counts one order too few", Book, "meets_more_than", "met > most", "met > most + 1"),
    Plant("IOC rests", MarketState, "match_order", "order.time_in_force is GTC", "True"),
    Plant("LIMIT_MAKER takes", MarketState, "_reason_to_refuse", "order.order_type is LIMIT_MAKER", "False"),
    Plant("band not checked", MarketState, "_reason_to_refuse", "last_price", "False", place=0),
    Plant("band excludes its bound", MarketState, "_reason_to_refuse",
          "scaled > last_price * market.band_up_ppm", "scaled >= last_price * market.band_up_ppm"),
    Plant("last price stale", MarketState, "_trade", "last_price or self.last_price",
          "self.last_price or last_price"),
    Plant("MARKET buy beyond its hold", MarketState, "_reason_to_refuse", "cost > budget", "False"),
    Plant("aggregates too many", MarketState, "_trade", "price != last_price", "True"),
    Plant("hold leaks on close", AccountHalf, "_close", "self._release(account, asset, order.held)",
          "self._release(account, asset, 0)"),
    Plant("hold leaks on refusal", AccountHalf, "_refuse_matched",
          "self._release(account, asset, order.held)", "self._release(account, asset, 0)"),
    Plant("held in the books not released", AccountHalf, "_release", "totals.held -= amount",
          "totals.held -= 0"),
    Plant("held in the books not paid", AccountHalf, "_exchange", "paid_totals.held -= unheld", "pass"),
    Plant("open orders not counted", AccountHalf, "_forget_open", "state.open_order_count -= 1", "pass"),
    Plant("depth silent on cancel", MarketState, "cancel_resting", "self._tell_depth(time, events)",
          "self.book.take_changes()"),
    Plant("client order id used twice", account_half, "reason_to_refuse",
          "account is not None and command.client_order_id in account.client_order_ids", "False"),
    Plant("client order id of a closed order refused", AccountHalf, "_forget_open",
          "del account.client_order_ids[order.client_order_id]", "pass"),
    Plant("repetition not recognised", Replies, "apply_once", "first is not None", "False"),
    Plant("repeated cancel refused", Replies, "apply_once", "first is not None",
          "first is not None and not isinstance(command, CancelOrder)"),
    Plant("refusals not remembered", Replies, "apply_once", "first is not None",
          "first is not None and not isinstance(first, Refused)"),
    Plant("filled order trades again when its request is repeated", Replies, "apply_once",
          "first is not None",
          "first is not None and not (hasattr(first, 'order') and first.order.status.name == 'FILLED')"),
    Plant("requests forgotten too early", AnsweredRequests, "drop_old",
          "now - oldest_first[0].time <= window_ms", "now - oldest_first[0].time <= window_ms // 2"),
    Plant("requests too old too early", AnsweredRequests, "find",
          "now - answered.time > self.window_ms", "now - answered.time > self.window_ms // 2"),
    Plant("outcomes forgotten too early", FirstOutcomes, "drop_old",
          "now - oldest_first[0].time > window_ms", "now - oldest_first[0].time > window_ms // 2"),
    Plant("outcomes too old too early", FirstOutcomes, "find",
          "now - outcome.time > self.window_ms", "now - outcome.time > self.window_ms // 2"),
    Plant("requests remembered too long", Replies, "set_windows", "windows.request_ms",
          "2 * windows.request_ms"),
    Plant("idempotency keys forgotten too early", Replies, "is_first_of_its_key",
          "KeyedRequests(state.windows.key_ms)", "KeyedRequests(state.windows.key_ms // 2)"),
    Plant("oldest idempotency key makes room", KeyedRequests, "has_room", "return False",
          "return self.outcomes.drop_old(TimeMs(now + 10**9), 1) > 0"),
    Plant("idempotency keys without end", KeyedRequests, "has_room",
          "len(self.outcomes) + len(self.under_way) >= keys_max",
          "len(self.outcomes) + len(self.under_way) > keys_max"),
    Plant("idempotency key for something else", Replies, "is_first_of_its_key",
          "known.fingerprint != fingerprint", "False"),
    Plant("refusal not kept under its key", Replies, "refuse_keyed",
          "self.reply_keyed(command.account_id, command.idempotency_key, command.reply_to, refused)",
          "self.reply(command.reply_to, refused)"),
    Plant("one open order too many", account_half, "reason_to_refuse",
          "len(open_here) >= market.open_orders_max", "len(open_here) > market.open_orders_max"),
    Plant("one open order too many in all", account_half, "reason_to_refuse",
          "len(account.client_order_ids) >= open_orders_max",
          "len(account.client_order_ids) > open_orders_max"),
    Plant("open orders of all markets not counted", Configuration, "set_config",
          "config.open_orders_max or UNBOUNDED", "UNBOUNDED"),
    Plant("notional at its minimum refused", account_half, "reason_to_refuse",
          "notional < market.notional_min", "notional <= market.notional_min"),
    Plant("order numbers of another shard", AccountHalf, "_open",
          "order_count * SHARD_COUNT_MAX + state.index",
          "order_count * SHARD_COUNT_MAX + (state.index + 1) % state.shard_count"),
    Plant("transfer counted twice", FundsTransfers, "transfer", "state.transfers.find(key, state.time)",
          "None"),
    Plant("transfer repeated with another amount", FundsTransfers, "_reason_not_to_repeat",
          "(first.asset, first.amount) != (command.asset, command.amount)", "first.asset != command.asset"),
    Plant("deposits and withdrawals share ids", FundsTransfers, "transfer", "type(command).__name__", "''"),
    Plant("transfers forgotten too early", Replies, "set_windows", "windows.transfer_ms",
          "windows.transfer_ms // 2"),
    Plant("transfers remembered too long", Replies, "set_windows", "windows.transfer_ms",
          "2 * windows.transfer_ms"),
    Plant("share of the supply ignored", FundsTransfers, "_reason_not_to_transfer",
          "RejectReason.AMOUNT_OUT_OF_RANGE if too_much else None", "None"),
    Plant("declared supply ignored", MarketMap, "supply", "self.by_asset[asset].amount_max",
          "AMOUNT_UNITS_MAX"),
    Plant("lots counted in hundred-millionths", AccountHalf, "_settle", "market.base_per_lot",
          "market.lot_size"),
    Plant("lots held in hundred-millionths", account_half, "hold_for",
          "command.price * market.quote_per_tick_lot if is_buy else market.base_per_lot",
          "command.price * market.quote_per_tick_lot if is_buy else market.lot_size"),
    Plant("every shard admits the whole supply", MarketMap, "supply_share",
          "self.supply(asset) // self.shard_count", "self.supply(asset)"),
    Plant("fees withdrawn twice", FundsTransfers, "withdraw_fees", "state.transfers.find(key, state.time)",
          "None"),
    Plant("more fees withdrawn than there are", FundsTransfers, "withdraw_fees",
          "amount > state.totals[asset].fees", "False"),
    Plant("withdrawn fees not counted", FundsTransfers, "withdraw_fees", "totals.withdrawn += amount",
          "pass"),
    Plant("account with funds closed", Account, "is_in_use", "funds.available or funds.held", "funds.held"),
    Plant("account whose keys are remembered closed", Account, "is_in_use", "self.keyed is not None",
          "False"),
    Plant("closed account stays", OperatorCommands, "close_account", "del state.accounts[command.account_id]",
          "pass"),
    Plant("held money withdrawn", FundsTransfers, "_reason_not_to_transfer", "available < command.amount",
          "available + (funds.held if funds else 0) < command.amount"),
    Plant("cancel by either id", ShardState, "find_open", "order_id not in (0, placed.order_id)", "False"),
)  # fmt: skip


def test_without_a_planted_bug_there_is_nothing_to_find() -> None:
    sequences = random.Random(20)
    for number in range(10):
        compare_throughout((1, 3)[number % 2], random_commands(sequences))


@pytest.mark.timeout(60)  # a planted bug may also be an endless loop
@pytest.mark.parametrize("plant", PLANTS, ids=[plant.bug.replace(" ", "-") for plant in PLANTS])
def test_planted_bug_is_found(plant: Plant) -> None:
    sequences = random.Random(20)
    with planted([plant]):
        for number in range(SEQUENCES_MAX):
            try:
                compare_throughout((1, 3)[number % 2], random_commands(sequences))
            except (AssertionError, InvariantBroken):
                return
    pytest.fail(f"{SEQUENCES_MAX} sequences do not notice: {plant.bug}")


def random_commands(sequences: random.Random) -> list[AnyCommand]:
    return commands_of([sequences.randbytes(8) for _ in range(LENGTH_MAX)])
