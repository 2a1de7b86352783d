"""The implementations of the core, and the choice of the one that runs (docs/decisions/0045)."""

from collections.abc import Mapping
from typing import Final

from engine_worker.core.frames import ObjectCore, ObjectCores
from engine_worker.core.shard import Shard
from engine_worker.frame_core import Cores, FrameCore
from runtime.settings import Settings, SettingsError

__all__ = ["COMPILED", "CORES", "OBJECTS", "Shard", "chosen_core", "shard_of", "why_not_compiled"]

OBJECTS: Final = "objects"
"""The definition, the fallback, and the oracle of the others: Python objects."""
COMPILED: Final = "compiled"
"""C structs; there if it has been built from the present sources."""

try:
    from engine_worker.core_fast import FastCores
except ImportError as error:
    _compiled: dict[str, Cores] = {}
    why_not_compiled: str | None = str(error)
    """Why there is no compiled core; None: there is."""
else:
    _compiled, why_not_compiled = {COMPILED: FastCores()}, None

CORES: Final[Mapping[str, Cores]] = {OBJECTS: ObjectCores(), **_compiled}
"""By name. All write the same bytes, which tests/properties/test_cores.py and test_compiled_core.py check."""


def chosen_core(settings: Settings) -> str:
    """Return the name of the core that an engine worker runs.

    Raises:
        SettingsError: it cannot be run here.
    """
    if settings.core == "auto":
        return COMPILED if COMPILED in CORES else OBJECTS
    if settings.core not in CORES:
        raise SettingsError(
            f"EXCHANGE_CORE is {settings.core}, which this program cannot run: {why_not_compiled}; "
            "`python -m engine_worker.core_fast.build` builds it, or says what is missing"
        )
    return settings.core


def shard_of(core: FrameCore) -> Shard:
    """Return the objects of an object core, for tools and tests that look inside."""
    assert isinstance(core, ObjectCore), "only the object core can be looked into"
    return core.shard
