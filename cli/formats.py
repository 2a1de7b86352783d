"""Which numbers each process reads."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import redis

from cli.local.processes import engines, gateways, readers
from protocol import streams
from protocol.release import Release
from protocol.switching import Reader
from runtime.metrics import Health, decode_health
from runtime.settings import Settings


def expected(settings: Settings) -> list[str]:
    """Return the names of the processes that these settings start."""
    return [spec.name for spec in (*gateways(settings), *engines(settings), *readers(settings))]


def read_readers(client: redis.Redis, settings: Settings) -> list[Reader]:
    """Return the processes of the settings, and all others with a recent heartbeat.

    Processes with the same name, as pods of a deployment have, each have a separate heartbeat.
    """
    keys: Iterable[Any] = client.scan_iter(match="health:*", count=1_000)
    key_of = {streams.process_of_health(key.decode()): key.decode() for key in keys}
    names = expected(settings)
    silent = [name for name in names if not any(_is_of(process, name) for process in key_of)]
    readers = [
        _reader(name, decode_health(client.get(key)))
        for name, key in key_of.items()
        if not _is_told_twice(name, key_of)
    ]
    return sorted(
        [*readers, *(Reader(name, None) for name in silent)], key=lambda reader: _place(reader.name, names)
    )


def _is_of(process: str, name: str) -> bool:
    """Return whether a heartbeat is of a process that the settings call `name`.

    On Kubernetes engine-0-1 is a pod of engine-0.
    """
    base = process.partition("@")[0]
    return base == name or (
        base.startswith(f"{name}-") and base.removeprefix(f"{name}-").isdigit() and "engine" in name
    )


def _is_told_twice(name: str, processes: Collection[str]) -> bool:
    """Return whether a heartbeat is the only one of its name: then the plain name repeats it."""
    base, _, instance = name.partition("@")
    return (
        bool(instance)
        and base in processes
        and sum(process.startswith(f"{base}@") for process in processes) == 1
    )


def _place(name: str, names: Sequence[str]) -> tuple[int, str]:
    base = name.partition("@")[0]
    return (names.index(base) if base in names else len(names), name)


def _reader(name: str, health: Health | None) -> Reader:
    reads = (
        Release(health.reads_format, health.reads_kinds, health.reads_rules) if health is not None else None
    )
    return Reader(name, reads)


def release_text(release: Release | None) -> str:
    """Return the numbers of a release: `format 2, kinds 1, rules 1`; None: the process is silent."""
    if release is None:
        return "not heard"
    if not any(release):
        return "an earlier release"
    return f"format {release.format}, kinds {release.kinds}, rules {release.rules}"
