"""Answers for features that the exchange lacks: execution rules, reference prices, block trades."""

from typing import NoReturn, TypedDict

from functions.api.errors import ApiError, bad_combination, mandatory_missing
from functions.api.function import (
    OPTIONAL_SYMBOL,
    SYMBOL,
    SYMBOL_STATUS,
    SYMBOLS,
    Function,
    Group,
    Parameter,
    limit_parameter,
)
from functions.api.market_choice import chosen_markets, single_market
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import NoRows

_RULES_WEIGHT, _RULES_WEIGHT_MAX = 2, 40


class ExecutionRulesShape(TypedDict):
    """No rules."""

    symbolRules: NoRows


async def get_execution_rules(ports: Ports, call: Call) -> ExecutionRulesShape:
    """Return the execution rules: no market has any."""
    if sum(name in call.parameters for name in ("symbol", "symbols", "symbolStatus")) > 1:
        raise bad_combination()
    chosen_markets(call.parameters, ports)
    return ExecutionRulesShape(symbolRules=[])


async def get_reference_price(ports: Ports, call: Call) -> NoReturn:
    """Refuse with -2043: no market has a reference price."""
    single_market(call.parameters, ports)
    raise ApiError(-2043, "This symbol doesn't have a reference price.")


async def get_block_trades(ports: Ports, call: Call) -> NoRows:
    """Return the market's block trades: none."""
    call.parameters.market(ports.markets)
    if call.parameters.integer("fromId") is None:
        raise mandatory_missing("fromId")
    call.parameters.limit(500, 1000)
    return []


def _rules_weight(parameters: Parameters) -> int:
    if "symbol" in parameters:
        return _RULES_WEIGHT
    symbols = parameters.words("symbols")
    return _RULES_WEIGHT_MAX if symbols is None else min(_RULES_WEIGHT * len(symbols), _RULES_WEIGHT_MAX)


EXECUTION_RULES = Function(
    "GET",
    "/api/v3/executionRules",
    Group.MARKET_DATA,
    "Execution rules: none",
    get_execution_rules,
    weight=_rules_weight,
    parameters=(OPTIONAL_SYMBOL, SYMBOLS, SYMBOL_STATUS),
)
REFERENCE_PRICE = Function(
    "GET",
    "/api/v3/referencePrice",
    Group.MARKET_DATA,
    "Reference price: none",
    get_reference_price,
    weight=2,
    parameters=(SYMBOL,),
)
REFERENCE_PRICE_CALCULATION = Function(
    "GET",
    "/api/v3/referencePrice/calculation",
    Group.MARKET_DATA,
    "How the reference price is calculated: not at all",
    get_reference_price,
    weight=2,
    parameters=(SYMBOL, SYMBOL_STATUS),
)
BLOCK_TRADES = Function(
    "GET",
    "/api/v3/historicalBlockTrades",
    Group.MARKET_DATA,
    "Block trades: none",
    get_block_trades,
    weight=25,
    parameters=(
        SYMBOL,
        Parameter("fromId", "From this block trade on.", required=True, kind="integer"),
        limit_parameter(500, 1000),
    ),
)
