from collections import Counter

from lab.chaos.plan import PAUSE_S, FaultKind, choose, draw_faults


def test_a_seed_always_draws_the_same_faults() -> None:
    counts = {"kills": 5, "pauses": 4, "redis_kills": 3, "database_outages": 2}
    plan = draw_faults(1, **counts, outage_s=30)
    assert plan == draw_faults(1, **counts, outage_s=30)
    assert plan != draw_faults(2, **counts, outage_s=30)
    assert [fault.share for fault in plan] == sorted(fault.share for fault in plan)
    assert Counter(fault.kind for fault in plan) == {
        FaultKind.KILL: 5,
        FaultKind.PAUSE: 4,
        FaultKind.REDIS_KILL: 3,
        FaultKind.DATABASE_STOP: 1,
        FaultKind.DATABASE_PAUSE: 1,
    }
    assert all(PAUSE_S[0] <= fault.seconds <= PAUSE_S[1] for fault in plan if fault.kind is FaultKind.PAUSE)


def test_everything_is_chosen_and_engines_most_often() -> None:
    names = ["gateway", "engine-0", "feeds", "persist-nudger"]
    chosen = Counter(choose(names, draw / 100) for draw in range(100))
    assert set(chosen) == set(names)
    assert chosen.most_common(1)[0][0] == "engine-0"
