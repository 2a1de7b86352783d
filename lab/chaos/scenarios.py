"""The scenarios of `exchange chaos`: a mixed one, and per control one that needs its safeguard. Pure."""

from collections.abc import Mapping
from typing import Final, Protocol, TypedDict, Unpack

import msgspec

from lab.chaos.operations import OperationKind, draw_operations
from lab.chaos.plan import draw_faults
from lab.chaos.run import Scenario
from lab.chaos.sabotage import Break


class Counts(TypedDict, total=False):
    """What may be said about a scenario; what is left out is as the scenario has it."""

    kills: int
    pauses: int
    redis_kills: int
    database_outages: int
    outage_s: float
    orders: int
    rate: float
    shards: int
    standbys: int
    redis_mode: str
    operations: int


class MakeScenario(Protocol):
    """Makes a scenario from a seed."""

    def __call__(self, seed: int, **counts: Unpack[Counts]) -> Scenario:
        """Return the scenario; `counts` override its own numbers."""
        ...


def mixed(
    seed: int,
    *,
    kills: int = 10,
    pauses: int = 3,
    redis_kills: int = 1,
    database_outages: int = 1,
    outage_s: float = 30.0,
    orders: int = 30_000,
    rate: float = 1_000.0,
    shards: int = 1,
    standbys: int = 1,
    redis_mode: str = "single",
    operations: int = 0,
) -> Scenario:
    """Return a scenario with every kind of fault and operation."""
    plan = draw_faults(
        seed,
        kills=kills,
        pauses=pauses,
        redis_kills=redis_kills,
        database_outages=database_outages,
        outage_s=outage_s,
    )
    return Scenario(
        seed=seed,
        plan=plan,
        orders=orders,
        rate=rate,
        shards=shards,
        standbys=standbys,
        redis_mode=redis_mode,
        operations=draw_operations(seed, operations),
    )


def rolling(
    seed: int, *, orders: int = 3_000, rate: float = 300.0, shards: int = 1, standbys: int = 1
) -> Scenario:
    """A rolling restart of everything, as in an upgrade, with two of everything that may have two."""
    return Scenario(
        seed=seed,
        plan=[],
        orders=orders,
        rate=rate,
        shards=shards,
        standbys=standbys,
        gateways=2,
        ws_edges=2,
        persist_workers=2,
        rolling=True,
        lanes=16,
    )


def rolling_without_drain(
    seed: int, *, orders: int = 1_000, rate: float = 300.0, shards: int = 1, standbys: int = 0
) -> Scenario:
    """A control: what answers clients is restarted, and is gone as soon as it is told to stop."""
    scenario = rolling(seed, orders=orders, rate=rate, shards=shards, standbys=standbys)
    restart = ("gateway", "gateway-2", "ws-edge", "ws-edge-2")
    return msgspec.structs.replace(scenario, restart=restart, persist_workers=1, broken=Break.DRAIN)


def _control(
    broken: Break,
    *,
    own_kills: int = 0,
    own_pauses: int = 0,
    own_redis_kills: int = 0,
    own_operations: int = 0,
    only: str = "",
    double_share: float = 0.01,
) -> MakeScenario:
    def make(
        seed: int,
        *,
        kills: int = own_kills,
        pauses: int = own_pauses,
        redis_kills: int = own_redis_kills,
        database_outages: int = 0,
        outage_s: float = 5.0,
        orders: int = 2_000,
        rate: float = 500.0,
        shards: int = 1,
        standbys: int = 0,
        redis_mode: str = "single",
        operations: int = own_operations,
    ) -> Scenario:
        plan = draw_faults(
            seed,
            kills=kills,
            pauses=pauses,
            redis_kills=redis_kills,
            database_outages=database_outages,
            outage_s=outage_s,
        )
        return Scenario(
            seed=seed,
            plan=plan,
            orders=orders,
            rate=rate,
            shards=shards,
            standbys=0,  # the rival that is started beside a paused leader is sure to take over
            redis_mode=redis_mode,
            watchers=1,
            double_share=double_share,
            operations=[
                operation
                for operation in draw_operations(seed, operations)
                if operation.kind is OperationKind.FORGE
            ],
            only=only,
            broken=broken,
            stall_s=10.0,
            settle_s=15.0,
        )

    return make


CONTROLS: Final[Mapping[Break, MakeScenario]] = {
    # A worker that was paused and replaced wakes up.
    Break.FENCE: _control(Break.FENCE, own_pauses=1, only="engine"),
    # Many orders are sent twice; nothing else happens.
    Break.DEDUP: _control(Break.DEDUP, double_share=0.2),
    # Redis crashes once.
    Break.WAIT: _control(Break.WAIT, own_redis_kills=1),
    # Somebody writes to the shards' input who has no key.
    Break.SIGNATURE: _control(Break.SIGNATURE, own_operations=3),
}
