"""The implementations of the core, and the choice of the one that runs (docs/decisions/0045)."""

from collections.abc import Mapping
from typing import Final

from engine_worker.core.frames import ObjectCore, ObjectCores
from engine_worker.core.shard import Shard
from engine_worker.frame_core import Cores, FrameCore
from runtime.settings import Settings, SettingsError

__all__ = ["COMPILED", "CORES", "OBJECTS", "Shard", "chosen_core", "shard_of"]

OBJECTS: Final = "objects"
"""The definition, the fallback, and the oracle of the others: Python objects."""
COMPILED: Final = "compiled"
"""C structs; there if it has been built."""

CORES: Final[Mapping[str, Cores]] = {OBJECTS: ObjectCores()}
"""By name. All write the same bytes, which tests/properties/test_cores.py checks."""


def chosen_core(settings: Settings) -> str:
    """Return the name of the core that an engine worker runs.

    Raises:
        SettingsError: it has not been built.
    """
    if settings.core == "auto":
        return COMPILED if COMPILED in CORES else OBJECTS
    if settings.core not in CORES:
        raise SettingsError(
            "EXCHANGE_CORE is compiled, and the compiled core has not been built for this program; "
            "`python -m engine_worker.core_fast.build` builds it, or says what is missing"
        )
    return settings.core


def shard_of(core: FrameCore) -> Shard:
    """Return the objects of an object core, for tools and tests that look inside."""
    assert isinstance(core, ObjectCore), "only the object core can be looked into"
    return core.shard
