"""The compiled core as an implementation of `Cores`. Importing this module needs the extension.

Raises ImportError when the extension is not built, or from other sources than those beside it.
"""

import sys

from typing_extensions import override

import engine_worker.core_fast
from engine_worker.core import snapshot as core_snapshot
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.outcomes import FirstOutcome, Request
from engine_worker.core.snapshot import ShardSnapshot, SnapshotError, decode_snapshot, whole_body
from engine_worker.frame_core import Cores, FrameCore
from protocol.codec import encode_frame
from protocol.decoding import msgpack_decoder
from protocol.release import why_later, why_too_early
from protocol.stream_id import StreamId
from runtime.extensions import sources_hash

if isinstance(_folder := sys._xoptions.get("core_fast"), str):
    # Another build of it, with sanitizers.
    engine_worker.core_fast.__path__.insert(0, _folder)

from engine_worker.core_fast._core import SOURCES_HASH, FastCore, snapshot_parts

if sources_hash() != SOURCES_HASH:
    raise ImportError(
        "the compiled core was built from other sources: build it again with "
        "`python -m engine_worker.core_fast.build`"
    )


_LARGE = tuple(ShardSnapshot.__struct_fields__.index(field) for field in ("accounts", "markets", "requests"))
"""The fields of a snapshot that grow with the state."""
_decode_requests = msgpack_decoder(list[FirstOutcome[Request]])


class FastCores(Cores):
    """Implements `Cores`."""

    @override
    def new(self, index: int, shard_count: int) -> FrameCore:
        return FastCore(index, shard_count)

    @override
    def restore(self, snapshot: bytes) -> tuple[FrameCore, StreamId]:
        restored = _restored(whole_body(snapshot))
        if restored is not None:
            return restored
        # The object core decides whether there can be such a shard; its objects are then copied.
        shard, stream_id = decode_snapshot(snapshot)
        core = FastCore(shard.state.index, shard.state.shard_count)
        try:
            core.parts.take_over(shard)
            core.check_invariants()
        except (InvariantBroken, LookupError, OverflowError) as error:
            raise SnapshotError(f"the snapshot describes an impossible state: {error}") from error
        finally:
            shard.let_go()
        return core, stream_id


def _restored(body: bytes) -> tuple[FrameCore, StreamId] | None:
    """Return the core of a snapshot that is in its canonical form and fits together; None: of another.

    Its large parts are read into the records, the others as objects.
    """
    parts = snapshot_parts(body)
    if parts is None or len(parts) != len(ShardSnapshot.__struct_fields__):
        return None
    accounts, markets, requests = (parts[number] for number in _LARGE)
    for number in _LARGE:
        parts[number] = b"\x90"
    core: FastCore | None = None
    try:
        described = core_snapshot._decode(b"\xdc" + len(parts).to_bytes(2, "big") + b"".join(parts))
        config = described.config
        if described.version not in core_snapshot.VERSIONS.values() or (
            config is not None and (why_later(config) or why_too_early(config))
        ):
            return None
        shard = core_snapshot._restore(described)
        stream_id = StreamId.parse(described.stream_id)
        core = FastCore(described.index, described.shard_count)
        core.parts.take_over(shard)
        shard.let_go()
        # The replies are kept as they are; so they must be what this program writes.
        if encode_frame(_decode_requests(requests)) != requests:
            raise ValueError("older replies")
        rare = core.restore_large(accounts, markets, requests, described.time)
        if rare is not None:
            core.parts.take_over_rare(rare)
            core.check_invariants()
            return core, stream_id
    except (InvariantBroken, LookupError, OverflowError, ValueError):
        pass  # the object core says what is wrong with it
    if core is not None:
        core.let_go()
    return None
