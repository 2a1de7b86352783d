"""Three hundred seeds of the simulation, in parts that several workers of the test run can share.

More by `exchange simulate`.
"""

import os
import subprocess
import sys
from collections import Counter

import pytest

from lab.simulation.campaign import simulate
from lab.simulation.markets import OPEN_ORDERS_MAX
from lab.simulation.run import Simulation, run, silent_logs
from lab.simulation.schedule import plan_of
from lab.simulation.shortage import Refusal
from protocol.orders import Side
from tests.oracle.exchange import Exchange, plain

PARTS, SEEDS_PER_PART = 10, 30

ENGINE_CALLS = (
    "commit", "deliver", "lease", "position", "publish", "read", "read_inputs", "read_snapshot",
    "renew_lease",
    "saved_snapshots", "take_over", "trim",
)  # fmt: skip
OTHER_CALLS = (
    "append (gateway)", "commit (feeds)", "load (feeds)", "read (feeds)", "take_over (feeds)",
    "database commit (ingest)", "database lock (ingest)", "database write (ingest)", "mark_passed (ingest)",
    "read (ingest)",
)  # fmt: skip


REFUSED_WRITES = (
    "append (gateway)",
    "commit (engine)",
    "renew_lease (engine)",
    "take_over (engine)",
    "commit (feeds)",
)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_a_rule(part: int) -> None:
    tally = simulate(range(part * SEEDS_PER_PART, (part + 1) * SEEDS_PER_PART))
    assert tally.failures == [], "`exchange simulate --seed N` shrinks it"
    assert tally.counts["trades"] > 300
    assert tally.injected["takeover (engine)"] > 30


# Takes long: seeds run until each fault has hit each call, before and after it.
def test_every_call_is_hit_by_every_fault() -> None:
    # Without this a fault that is never injected would look like one that is always survived.
    injected = Counter[str]()
    wanted = {
        f"{trouble} {where} {place}"
        for trouble in ("crash", "pause", "disconnect")
        for where in ("before", "after")
        for place in (*(f"{call} (engine)" for call in ENGINE_CALLS), *OTHER_CALLS)
    }
    missing = wanted
    for seed in range(1_000, 2_000):
        outcome = run(plan_of(seed, length=300, fault_rate=0.5))
        assert not outcome.failure
        injected += outcome.injected
        missing = wanted - injected.keys()
        if not missing:
            return
    pytest.fail(f"never injected: {sorted(missing)}")


# Takes long: seeds run until each kind of refusal has met each kind of write.
def test_every_write_is_refused_by_a_redis_that_takes_none() -> None:
    injected = Counter[str]()
    wanted = {
        f"refused by Redis: {refusal.value}, {write}"
        for refusal in (Refusal.ALL_OUT_OF_MEMORY, Refusal.DISK, Refusal.REPLICAS)
        for write in REFUSED_WRITES
    } | {f"refused by Redis: {Refusal.OUT_OF_MEMORY.value}, append (gateway)"}
    for seed in range(2_000, 2_400):
        outcome = run(plan_of(seed, length=300))
        assert not outcome.failure
        injected += outcome.injected
        if wanted <= injected.keys():
            break
    assert wanted <= injected.keys(), sorted(wanted - injected.keys())
    # What was accepted is finished although new work is refused.
    assert not any(what.startswith("refused by Redis: OOM,") and "(gateway)" not in what for what in injected)


def test_losing_the_end_of_the_log_is_noticed() -> None:
    outcomes = [run(plan_of(seed, loses_tail=True)) for seed in range(60)]
    assert [outcome.failure for outcome in outcomes if outcome.failure] == []
    reasons = {outcome.detected.partition(":")[0] for outcome in outcomes if outcome.detected}
    assert reasons == {"LogDamaged", "InvariantBroken"}


def test_one_shard_does_what_the_oracle_does() -> None:
    compared = 0
    for plan in (plan_of(seed, length=250, loses_tail=False, is_operated=False) for seed in range(40)):
        if plan.shard_count > 1:
            continue
        simulation, oracle = (
            Simulation(plan),
            Exchange(Simulation(plan).markets, open_orders_max=OPEN_ORDERS_MAX),
        )
        with silent_logs():
            simulation.run()
        books = simulation.witness.books
        for _, time, command in simulation.witness.commands:
            oracle.apply(command, time)
        states = {order.order_id: order.state() for order in oracle.orders}
        assert {order_id: plain(history[-1]) for order_id, history in books.histories.items()} == states
        for market in simulation.markets.markets:
            for side in Side:
                assert sorted(books.levels[market.symbol][side].items()) == sorted(
                    oracle.levels(market.symbol, side)
                )
        for (account_id, asset), balance in books.balances.items():
            assert (balance.available, balance.held) == oracle.balances(account_id).get(asset, (0, 0))
        assert books.fees == oracle.fees
        compared += len(simulation.witness.commands)
    assert compared > 500


def trace_of(seed: int) -> str:
    lines: list[str] = []
    outcome = run(plan_of(seed), lines.append)
    return "\n".join([*lines, repr(sorted(outcome.injected.items())), repr(sorted(outcome.counts.items()))])


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_a_seed_is_the_same_run_everywhere(hash_seed: str) -> None:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    again = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from {__name__} import trace_of; print(*map(trace_of, range(3)), sep=chr(10))",
        ],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert again.stdout.strip().splitlines() == "\n".join(map(trace_of, range(3))).strip().splitlines()
