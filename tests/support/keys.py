"""The table of Redis's keys, read from the description of protocol/streams.py."""

import re
from collections.abc import Iterator

from protocol import streams

_ROW = re.compile(r"^\| `([^`]+)` +\| (\w+)", re.MULTILINE)


def described() -> list[tuple[str, str]]:
    """Return (pattern, kind) of every row."""
    return _ROW.findall(streams.__doc__ or "")


def examples(pattern: str, shard: int) -> Iterator[str]:
    """Return keys that a row describes: of a market that there is, and of one that is gone."""
    name = pattern.replace("{k}", f"{{{shard}}}").replace("…", "x").replace("INTERVAL", "1m")
    for symbol in ("BTCUSDT", "GONEUSDT") if "SYMBOL" in name else ("",):
        yield re.sub(r"\b(NAME|KEY|HASH|ID)\b", "stale", name.replace("SYMBOL", symbol))
