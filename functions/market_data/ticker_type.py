"""Full or short tickers."""

from typing import Final

from functions.api.errors import ApiError
from functions.api.function import Parameter
from functions.api.parameters import Parameters

TICKER_TYPE: Final = Parameter("type", "FULL (default) or MINI.", choices=("FULL", "MINI"))
_IS_MINI: Final = {"FULL": False, "MINI": True}


def is_mini_ticker(parameters: Parameters) -> bool:
    """Return whether `type` asks for the short form."""
    return bool(parameters.choice("type", _IS_MINI, _invalid_type))


def _invalid_type() -> ApiError:
    return ApiError(-1139, "Invalid ticker type.")
