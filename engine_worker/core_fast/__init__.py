"""The compiled core: the same bytes as engine_worker/core, some thirty times as fast.

It is there when its extension was built: `python -m engine_worker.core_fast.build`. Without it, or when it
was built from other sources, `from engine_worker.core_fast import FastCores` raises ImportError. Decision:
docs/decisions/0029-cores-behind-frames.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine_worker.core_fast.fast_cores import FastCores

__all__ = ["FastCores"]


def __getattr__(name: str) -> Any:
    # Not imported above: this package must be importable for its own build.
    if name != "FastCores":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from engine_worker.core_fast.fast_cores import FastCores

    return FastCores
