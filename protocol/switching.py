"""Whether, and to which numbers, the shards of an exchange may be switched for a new release.

See docs/decisions/0027.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from protocol.configuration import ShardConfig
from protocol.release import Release, release_of


class Reader(NamedTuple):
    """A process that reads or writes the log."""

    name: str
    reads: Release | None
    """None: it has sent no heartbeat lately."""


class Switch(NamedTuple):
    """The effect of a switch."""

    newest: Release
    """The newest numbers that any process reads."""
    lacking: tuple[Reader, ...]
    """Processes that do not read these numbers, or sent no heartbeat: they forbid the switch."""
    shards: tuple[int, ...]
    """The shards that do not write these numbers yet."""


def plan_switch(
    configs: Mapping[int, ShardConfig], found: Sequence[Reader], without: Collection[str] = ()
) -> Switch:
    """Return the effect of a switch to the newest numbers.

    `without` names processes that, as an operator confirms, will not return.
    """
    counted = [each for each in found if each.reads is not None or each.name not in without]
    written = [release_of(config) for config in configs.values()]
    newest = _highest([*(each.reads for each in counted if each.reads is not None), *written])
    lacking = tuple(each for each in counted if each.reads is None or not _reads(each.reads, newest))
    behind = tuple(shard for shard, config in configs.items() if release_of(config) != newest)
    return Switch(newest, lacking, behind)


def _highest(releases: Sequence[Release]) -> Release:
    return Release(*(max(numbers) for numbers in zip(*releases, strict=True)))


def _reads(reads: Release, wanted: Release) -> bool:
    return all(own >= number for own, number in zip(reads, wanted, strict=True))


def switched(config: ShardConfig, newest: Release) -> ShardConfig:
    """Return the next version of a shard's configuration, with these numbers."""
    return msgspec.structs.replace(config, version=config.version + 1, **newest._asdict())
