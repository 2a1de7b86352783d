"""Request parameters: names and texts, and the parsing of each kind of value with Binance's errors."""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import unquote_plus

import msgspec

from functions.api.errors import (
    ApiError,
    illegal_characters,
    invalid_parameter,
    invalid_symbol,
    mandatory_missing,
    parameter_empty,
    too_precise,
    unavailable,
)
from protocol.market import Market, MarketMap
from protocol.units import SCALE_MAX, DecimalError, TimeMs, TooManyDecimalsError, parse_decimal

T = TypeVar("T")

_INTEGER: Final = "^[0-9]{1,20}$"
_DECIMAL: Final = r"^([0-9]{1,20})(\.[0-9]{1,20})?$"
_SYMBOL: Final = "^[A-Z0-9-_.]{1,20}$"
_CLIENT_ORDER_ID: Final = r"^[\.A-Z\:/a-z0-9_-]{1,36}$"
_IDEMPOTENCY_KEY: Final = "^[ -~]{1,64}$"
_integer = re.compile(r"[0-9]{1,20}", re.ASCII)
_symbol = re.compile(r"[A-Z0-9\-_.\u00a1-\U0010ffff]{1,20}")
"""Also beyond ASCII, because Binance's markets may have such names."""
_client_order_id = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}", re.ASCII)
_idempotency_key = re.compile(r"[ -~]{1,64}", re.ASCII)
_symbols = msgspec.json.Decoder(list[str])

_INTEGER_MAX: Final = 2**63 - 1
_MICROSECONDS_FROM: Final = 100_000_000_000_000
"""A time from here on is in microseconds: in milliseconds it would be after the year 5000."""
_PARAMETERS_MAX: Final = 100


def parse_pairs(encoded: bytes) -> dict[str, str]:
    """Return the names and values of a query string or form body.

    Raises:
        ApiError: -1100 if it is not percent-encoded UTF-8, -1101 for a repeated name or too many names.
    """
    values: dict[str, str] = {}
    if not encoded:
        return values
    try:
        text = encoded.decode("utf-8")
        escaped = "%" in text or "+" in text
        pairs = text.split("&")
        if len(pairs) > _PARAMETERS_MAX:
            raise ApiError(-1101, "Too many parameters sent for this endpoint.")
        for pair in pairs:
            name, _, value = pair.partition("=")
            if not name:
                continue
            if escaped:
                name, value = unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")
            if name in values:
                raise ApiError(-1101, "Duplicate values for a parameter detected.")
            values[name] = value
    except UnicodeDecodeError as error:
        raise ApiError(-1100, "Illegal characters found in a parameter.") from error
    return values


class Parameters:
    """The parameters of one request. Every method raises `ApiError` for an invalid value."""

    __slots__ = ("values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        """Wrap names and texts."""
        self.values = values

    def __contains__(self, name: str) -> bool:
        """Whether `name` was sent."""
        return name in self.values

    def refuse_unknown(self, names: frozenset[str]) -> None:
        """Refuse unknown parameters: -1101 if none is expected, else -1104."""
        values = self.values
        if values.keys() <= names:
            return
        read = sum(name in names for name in values)
        if not names:
            raise ApiError(-1101, f"Too many parameters; expected '0' and received '{len(values)}'.")
        raise ApiError(
            -1104,
            f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{len(values)}'.",
        )

    def optional(self, name: str) -> str | None:
        """Return the text, or None if it was not sent."""
        value = self.values.get(name)
        if value == "":
            raise parameter_empty(name)
        return value

    def required(self, name: str) -> str:
        """Return the text."""
        value = self.values.get(name)
        if value is None:
            raise mandatory_missing(name)
        if not value:
            raise parameter_empty(name)
        return value

    def integer(self, name: str) -> int | None:
        """Return a whole number of at least 0 that fits 63 bits."""
        text = self.optional(name)
        if text is None:
            return None
        if _integer.fullmatch(text) is None:
            raise illegal_characters(name, _INTEGER)
        value = int(text)
        if value > _INTEGER_MAX:
            raise ApiError(-1108, f"Parameter '{name}' overflowed.")
        return value

    def limit(self, default: int, largest: int) -> int:
        """Return `limit`; a value above `largest` counts as `largest`."""
        value = self.integer("limit")
        if value is None:
            return default
        if value == 0:
            raise invalid_parameter("limit")
        return min(value, largest)

    def time(self, name: str) -> TimeMs | None:
        """Return a time in milliseconds; it may be sent in milliseconds or microseconds."""
        value = self.integer(name)
        if value is None:
            return None
        return TimeMs(value // 1000 if value >= _MICROSECONDS_FROM else value)

    def time_range(self, longest_ms: int | None = None) -> tuple[TimeMs | None, TimeMs | None]:
        """Return `startTime` and `endTime`; -1127 if they are further apart than `longest_ms`."""
        start, end = self.time("startTime"), self.time("endTime")
        if start is not None and end is not None:
            if start > end:
                raise invalid_parameter("startTime")
            if longest_ms is not None and end - start > longest_ms:
                hours = longest_ms // 3_600_000
                raise ApiError(-1127, f"More than {hours} hours between startTime and endTime.")
        return start, end

    def decimal(self, name: str, scale: int = SCALE_MAX) -> int | None:
        """Return a decimal number in units of 10**-scale; -1111 if it has more decimals."""
        text = self.optional(name)
        if text is None:
            return None
        try:
            return parse_decimal(text, scale)
        except TooManyDecimalsError as error:
            raise too_precise(name) from error
        except DecimalError as error:
            raise illegal_characters(name, _DECIMAL) from error

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        text = self.optional(name)
        if text is None:
            return default
        lowered = text.lower()
        if lowered not in ("true", "false"):
            raise illegal_characters(name, "^(true|false)$")
        return lowered == "true"

    def choice(self, name: str, choices: Mapping[str, T], refusal: Callable[[], ApiError]) -> T | None:
        """Return the value in `choices` for the text; None if it was not sent.

        Raises:
            ApiError: created by `refusal`, if the text is not one of the choices.
        """
        text = self.optional(name)
        if text is None:
            return None
        if text not in choices:
            raise refusal()
        return choices[text]

    def client_order_id(self, name: str) -> str | None:
        """Return a client order id."""
        text = self.optional(name)
        if text is not None and _client_order_id.fullmatch(text) is None:
            raise illegal_characters(name, _CLIENT_ORDER_ID)
        return text

    def idempotency_key(self, name: str) -> str | None:
        """Return an idempotency key."""
        text = self.optional(name)
        if text is not None and _idempotency_key.fullmatch(text) is None:
            raise illegal_characters(name, _IDEMPOTENCY_KEY)
        return text

    def market(self, markets: MarketMap) -> Market:
        """Return the market `symbol`."""
        return _market(self.required("symbol"), "symbol", markets)

    def optional_market(self, markets: MarketMap) -> Market | None:
        """Return the market `symbol`, or None if it was not sent."""
        symbol = self.optional("symbol")
        return None if symbol is None else _market(symbol, "symbol", markets)

    def markets(self, markets: MarketMap) -> list[Market] | None:
        """Return the markets of `symbols`, a JSON array; None if it was not sent."""
        text = self.optional("symbols")
        if text is None:
            return None
        names = _string_list("symbols", text)
        if not names:
            raise parameter_empty("symbols")
        if len(set(names)) != len(names):
            raise ApiError(-1151, "Symbol is present multiple times in the list.")
        return [_market(name, "symbols", markets) for name in names]

    def words(self, name: str) -> list[str] | None:
        """Return a JSON array of words, or a single bare word, as a list; None if it was not sent."""
        text = self.optional(name)
        if text is None:
            return None
        return _string_list(name, text) if text.startswith("[") else [text]


def _string_list(name: str, text: str) -> list[str]:
    try:
        return _symbols.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise illegal_characters(name, r'^\["[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}\]$') from error


def _market(symbol: str, name: str, markets: MarketMap) -> Market:
    market = markets.by_symbol.get(symbol)
    if market is not None:
        return market
    if _symbol.fullmatch(symbol) is None:
        raise illegal_characters(name, _SYMBOL)
    if markets.unknown_shards:
        raise unavailable()  # an unknown shard may have the market
    raise invalid_symbol()


def require_one_of(parameters: Parameters, first: str, second: str) -> None:
    """Refuse with -1102 if neither was sent."""
    if first not in parameters and second not in parameters:
        raise ApiError(-1102, f"Param '{first}' or '{second}' must be sent, but both were empty/null!")
