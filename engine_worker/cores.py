"""The implementations of the core, and the choice of the one that runs."""

from collections.abc import Mapping
from typing import Final

from engine_worker.core.frames import ObjectCore, ObjectCores
from engine_worker.core.shard import Shard
from engine_worker.frame_core import Cores, FrameCore

try:
    from engine_worker.core_fast import FastCores
except ImportError as error:
    _compiled: dict[str, Cores] = {}
    why_not_compiled: str | None = str(error)
    """Why there is no compiled core; None: there is."""
else:
    _compiled, why_not_compiled = {"compiled": FastCores()}, None

__all__ = ["CORES", "Shard", "chosen_cores", "shard_of", "why_not_compiled"]

CORES: Final[Mapping[str, Cores]] = {"objects": ObjectCores(), **_compiled}
"""By name; "compiled" only where its extension was built from the present sources.

All write the same bytes, which tests/properties/test_cores.py and test_compiled_core.py check.
"""


def chosen_cores() -> Cores:
    """Return the cores that workers and replays run."""
    return CORES["objects"]


def shard_of(core: FrameCore) -> Shard:
    """Return the objects of an object core, for tools and tests that look inside."""
    assert isinstance(core, ObjectCore), "only the object core can be looked into"
    return core.shard
