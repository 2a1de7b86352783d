"""The comparison with the oracle is worth its time: each of these bugs, planted into the engine, makes it fail.

A bug is planted by changing one piece of one method's source. When the piece is no longer there the plant is out of date, and
the test says so.
"""

import inspect
import random
import textwrap
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from engine_worker.core import shard
from engine_worker.core.accounts import Account
from engine_worker.core.book import Book, BookSide
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.market_state import MarketState
from engine_worker.core.outcomes import AnsweredRequests, FirstOutcomes, KeyedRequests
from engine_worker.core.shard import Shard
from protocol.market import Market, MarketMap
from tests.oracle.exchange import AnyCommand
from tests.properties.sequences import LENGTH_MAX, commands_of
from tests.properties.twins import compare_throughout

SEQUENCES_MAX = 300


class Plant(NamedTuple):
    """A bug: in `owner.method`, `right` becomes `wrong`."""

    bug: str
    owner: type | ModuleType
    method: str
    right: str
    wrong: str


PLANTS = (
    Plant("fee rounded down", Shard, "_settle", "-(-received * fee_ppm // PPM)", "received * fee_ppm // PPM"),
    Plant("maker pays taker fee", Shard, "_settle", "if liquidity is MAKER", "if False"),
    Plant("fee not credited to the house", Shard, "_settle", "received_totals.fees += fee", "pass"),
    Plant("improvement not released", Shard, "_settle", "elif is_buy and", "elif False and"),
    Plant("time priority reversed", Book, "match", "level.first", "level.last"),
    Plant("price priority reversed", BookSide, "remove", "self.firsts[0]", "self.blocks[-1].ranks[-1]"),
    Plant("trade at the taker's price", Book, "match", "level.price, traded)", "price, traded)"),
    Plant("budget overspent", Book, "match", "budget // cost_per_lot)", "1 + budget // cost_per_lot)"),
    Plant(
        "spent order prevents",
        Book,
        "match",
        "not None and budget <",
        "not None and (maker.account_id != account_id or not prevention) and budget <",
    ),
    Plant("self-trade prevention ignored", Book, "match", "if maker.account_id == account_id", "if False"),
    Plant("taker outlives EXPIRE_BOTH", Book, "match", "is not EXPIRE_MAKER", "is EXPIRE_TAKER"),
    Plant("maker outlives EXPIRE_BOTH", Book, "match", "is not EXPIRE_TAKER", "is EXPIRE_MAKER"),
    Plant("FOK fills in part", MarketState, "_fills_whole", "found == order.quantity", "found > 0"),
    Plant("FOK counts own orders", Book, "fillable", "if prevention is not PREVENT_NOTHING", "if False"),
    Plant("empty book not refused", MarketState, "_reason_not_to_spend", "if not found:", "if False:"),
    Plant("thin book not refused", MarketState, "_reason_not_to_spend", "cost * market.quote_per_tick_lot > order.quote_budget", "False"),
    Plant("sells what there is and no more", MarketState, "_reason_not_to_spend", "if found == more and", "if False and"),
    Plant("budget that pays no more expires", Book, "match", "budget_spent=True", "budget_spent=False"),
    Plant("quote quantity beyond the largest order", Shard, "_place_order", "min(lots, market.quantity_max)", "lots"),
    Plant("bound of a purchase beyond the slippage", Market, "market_bound",
          "best * (PPM + self.market_slippage_ppm) // PPM", "-(-best * (PPM + self.market_slippage_ppm) // PPM)"),
    Plant("bound of a sale beyond the slippage", Market, "market_bound",
          "-(-best * (PPM - self.market_slippage_ppm) // PPM)", "best * (PPM - self.market_slippage_ppm) // PPM"),
    Plant("MARKET order bounded by what its gateway expects", MarketState, "match_order", "if order.bound_by_book else", "if False else"),
    Plant("purchase that holds too little refused", MarketState, "_reason_to_refuse",
          "if order.price * order.quantity * market.quote_per_tick_lot > budget:", "if True:"),
    Plant("purchase beyond what it holds", MarketState, "_budget", "<= order.quote_budget", "< 0"),
    Plant("worth of a MARKET order not asked for", MarketState, "_reason_to_refuse", "if order.bound_by_book and", "if False and"),
    Plant("worth counted at the best price", MarketState, "_reason_of_worth", "self.last_price or", "0 or"),
    Plant("worth unknown before the first trade", MarketState, "_reason_of_worth", "if best is not None else 0", "if False else 0"),
    Plant("worth at its minimum refused", MarketState, "_reason_of_worth", "worth < self", "worth <= self"),
    Plant("sale for money holds one lot", Shard, "_hold_for", "market.quantity_max) * market.base_per_lot", "1) * market.base_per_lot"),
    Plant("sale for money holds more than the largest order", Shard, "_hold_for",
          "min(available // market.base_per_lot, market.quantity_max)", "available // market.base_per_lot"),
    Plant("dear book called empty", shard, "_reason_to_expire", "if too_dear else", "if False else"),
    Plant("empty book called dear", MarketState, "match_order", "opposite.best is not None  #", "True  #"),
    Plant("LIMIT order bounded by its book", Shard, "_reason_to_refuse", "and not command.bound_by_book", ""),
    Plant("MARKET order with two bounds", Shard, "_reason_to_refuse", "else price:", "else False:"),
    Plant("one match too many", Book, "match", "== matches_max", "> matches_max"),
    Plant("prevented makers do not count as met", Book, "match", "len(matches) + len(expired)", "len(matches)"),
    Plant("what is left after the last match rests", MarketState, "match_order", " and not limit_reached", ""),
    Plant("FOK fills in part when it meets too many", MarketState, "match_order", "and self._meets_too_many(order)", "and False"),
    Plant("FOK counts one order too few", Book, "meets_more_than", "met > most", "met > most + 1"),
    Plant("IOC rests", MarketState, "match_order", "order.time_in_force is GTC", "True"),
    Plant("LIMIT_MAKER takes", MarketState, "_reason_to_refuse", "order.order_type is LIMIT_MAKER", "False"),
    Plant("band not checked", MarketState, "_reason_to_refuse", "if last_price:", "if False:"),
    Plant("band excludes its bound", MarketState, "_reason_to_refuse", "scaled >", "scaled >="),
    Plant("last price stale", MarketState, "_trade", "last_price or self.last_price", "self.last_price or last_price"),
    Plant("MARKET buy beyond its hold", MarketState, "_reason_to_refuse", "if cost > budget", "if False"),
    Plant("aggregates too many", MarketState, "_trade", "if price != last_price:", "if True:"),
    Plant("hold leaks on close", Shard, "_close", "release(order.held)", "release(0)"),
    Plant("hold leaks on refusal", Shard, "_taker_outcome", "release(order.held)", "release(0)"),
    Plant("held in the books not released on close", Shard, "_close", "held -= order.held", "held -= 0"),
    Plant("held in the books not released on refusal", Shard, "_taker_outcome", "held -= order.held", "held -= 0"),
    Plant("held in the books not paid", Shard, "_settle", "paid_totals.held -= held_before - held", "pass"),
    Plant("open orders not counted", Shard, "_forget_open", "self.open_order_count -= 1", "pass"),
    Plant("depth silent on cancel", MarketState, "cancel_resting", "self._tell_depth(time, events)", "self.book.take_changes()"),
    Plant("client order id used twice", Shard, "_reason_to_refuse", "command.client_order_id in account", "False and account"),
    Plant("client order id of a closed order refused", Shard, "_forget_open",
          "del account.client_order_ids[order.client_order_id]", "pass"),
    Plant("repetition not recognised", Shard, "_apply_command", "if first is not None:", "if False:"),
    Plant("repeated cancel refused", Shard, "_apply_command", "if first is not None:",
          "if first is not None and not isinstance(command, CancelOrder):"),
    Plant("refusals not remembered", Shard, "_apply_command", "if first is not None:",
          "if first is not None and not isinstance(first, Refused):"),
    Plant("filled order trades again when its request is repeated", Shard, "_apply_command", "if first is not None:",
          "if first is not None and not (isinstance(first, OrderReply) and first.order.status is FILLED):"),
    Plant("requests forgotten too early", AnsweredRequests, "drop_old", "<= window_ms", "<= window_ms // 2"),
    Plant("requests too old too early", AnsweredRequests, "find", "> self.window_ms", "> self.window_ms // 2"),
    Plant("outcomes forgotten too early", FirstOutcomes, "drop_old", "> window_ms", "> window_ms // 2"),
    Plant("outcomes too old too early", FirstOutcomes, "find", "> self.window_ms", "> self.window_ms // 2"),
    Plant("requests remembered too long", Shard, "set_config", "window_ms = config.windows.request_ms",
          "window_ms = 2 * config.windows.request_ms"),
    Plant("idempotency keys forgotten too early", Shard, "_is_first_of_its_key",
          "KeyedRequests(self.windows.key_ms)", "KeyedRequests(self.windows.key_ms // 2)"),
    Plant("oldest idempotency key makes room", KeyedRequests, "has_room", "return False",
          "return self.outcomes.drop_old(TimeMs(now + 10**9), 1) > 0"),
    Plant("idempotency keys without end", KeyedRequests, "has_room", ">= keys_max", "> keys_max"),
    Plant("idempotency key for something else", Shard, "_is_first_of_its_key", "known.fingerprint != fingerprint", "False"),
    Plant("refusal not kept under its key", Shard, "_refuse_keyed",
          "self._reply_keyed(command.account_id, command.idempotency_key, command.reply_to, refused)",
          "self._reply(command.reply_to, refused)"),
    Plant("one open order too many", Shard, "_reason_to_refuse", ">= market.open_orders_max", "> market.open_orders_max"),
    Plant("one open order too many in all", Shard, "_reason_to_refuse", ">= self._open_orders_max", "> self._open_orders_max"),
    Plant("open orders of all markets not counted", Shard, "set_config", "config.open_orders_max or UNBOUNDED", "UNBOUNDED"),
    Plant("notional at its minimum refused", Shard, "_reason_to_refuse", "notional < market", "notional <= market"),
    Plant("order numbers of another shard", Shard, "_place_order", "+ self.index", "+ (self.index + 1) % self.shard_count"),
    Plant("transfer counted twice", Shard, "_transfer", "self.transfers.find(key, self.time)", "None"),
    Plant("transfer repeated with another amount", Shard, "_reason_not_to_repeat",
          "(first.asset, first.amount) != (command.asset, command.amount)", "first.asset != command.asset"),
    Plant("deposits and withdrawals share ids", Shard, "_transfer", "type(command).__name__", "''"),
    Plant("transfers forgotten too early", Shard, "set_config", "= config.windows.transfer_ms", "= config.windows.transfer_ms // 2"),
    Plant("transfers remembered too long", Shard, "set_config", "= config.windows.transfer_ms", "= 2 * config.windows.transfer_ms"),
    Plant("share of the supply ignored", Shard, "_reason_not_to_transfer",
          "RejectReason.AMOUNT_OUT_OF_RANGE if too_much", "RejectReason.AMOUNT_OUT_OF_RANGE if False"),
    Plant("declared supply ignored", MarketMap, "supply", "self.by_asset[asset].amount_max", "AMOUNT_UNITS_MAX"),
    Plant("lots counted in hundred-millionths", Shard, "_settle", "market.base_per_lot", "market.lot_size"),
    Plant("lots held in hundred-millionths", Shard, "_hold_for", "market.base_per_lot", "market.lot_size"),
    Plant("every shard admits the whole supply", MarketMap, "supply_share", "// self.shard_count", ""),
    Plant("fees withdrawn twice", Shard, "_withdraw_fees", "self.transfers.find(key, self.time)", "None"),
    Plant("more fees withdrawn than there are", Shard, "_withdraw_fees", "amount > self.totals[asset].fees", "False"),
    Plant("withdrawn fees not counted", Shard, "_withdraw_fees", "totals.withdrawn += amount", "pass"),
    Plant("account with funds closed", Account, "is_in_use", "any(funds.available or funds.held for", "any(funds.held for"),
    Plant("account whose keys are remembered closed", Account, "is_in_use", "self.keyed is not None", "False"),
    Plant("closed account stays", Shard, "_close_account", "del self.accounts[command.account_id]", "pass"),
    Plant("held money withdrawn", Shard, "_reason_not_to_transfer", "available < command",
          "available + (funds.held if funds else 0) < command"),
    Plant("cancel by either id", Shard, "_find_open", "order_id not in (0, placed.order_id)", "False"),
)  # fmt: skip


def test_without_a_planted_bug_there_is_nothing_to_find() -> None:
    sequences = random.Random(20)
    for number in range(10):
        compare_throughout((1, 3)[number % 2], random_commands(sequences))


@pytest.mark.timeout(60)  # a planted bug may also be an endless loop
@pytest.mark.parametrize("plant", PLANTS, ids=[plant.bug.replace(" ", "-") for plant in PLANTS])
def test_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plant.owner, plant.method, grow(plant))
    sequences = random.Random(20)
    for number in range(SEQUENCES_MAX):
        try:
            compare_throughout((1, 3)[number % 2], random_commands(sequences))
        except (AssertionError, InvariantBroken):
            return
    pytest.fail(f"{SEQUENCES_MAX} sequences do not notice: {plant.bug}")


def random_commands(sequences: random.Random) -> list[AnyCommand]:
    return commands_of([sequences.randbytes(8) for _ in range(LENGTH_MAX)])


def grow(plant: Plant) -> Any:
    """Return the method with the bug in it."""
    method = getattr(plant.owner, plant.method)
    source = textwrap.dedent(inspect.getsource(method))
    assert plant.right in source, f"the plant is out of date: {plant.right!r} is not in {plant.method}"
    grown: dict[str, Any] = {}
    exec(source.replace(plant.right, plant.wrong), method.__globals__, grown)
    return grown[plant.method]
