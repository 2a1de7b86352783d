"""The compiled core as an implementation of `Cores`. Importing this module needs the extension.

Raises ImportError when the extension is not built, or from other sources than those beside it.
"""

import sys

from typing_extensions import override

import engine_worker.core_fast
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.snapshot import SnapshotError, decode_snapshot
from engine_worker.core_fast.build import sources_hash
from engine_worker.frame_core import Cores, FrameCore
from protocol.stream_id import StreamId

if isinstance(_folder := sys._xoptions.get("core_fast"), str):
    # Another build of it, with sanitizers.
    engine_worker.core_fast.__path__.insert(0, _folder)

from engine_worker.core_fast._core import SOURCES_HASH, FastCore

if sources_hash() != SOURCES_HASH:
    raise ImportError(
        "the compiled core was built from other sources: build it again with "
        "`python -m engine_worker.core_fast.build`"
    )


class FastCores(Cores):
    """Implements `Cores`."""

    @override
    def new(self, index: int, shard_count: int) -> FrameCore:
        return FastCore(index, shard_count)

    @override
    def restore(self, snapshot: bytes) -> tuple[FrameCore, StreamId]:
        # The object core decides whether there can be such a shard; its objects are then copied.
        shard, stream_id = decode_snapshot(snapshot)
        core = FastCore(shard.state.index, shard.state.shard_count)
        try:
            core.parts.take_over(shard)
        except (InvariantBroken, OverflowError) as error:
            raise SnapshotError(f"the snapshot describes an impossible state: {error}") from error
        finally:
            shard.let_go()
        return core, stream_id
