from collections.abc import Iterable

SOURCES_HASH: str

class Markets:
    def __init__(self, markets: Iterable[tuple[str, str, str, int, int]]) -> None: ...

def copies(
    shard: int, entries: list[tuple[bytes, bytes]], markets: Markets
) -> tuple[bytes, bytes, bytes, bytes, list[bytes], int, int, int] | None: ...
