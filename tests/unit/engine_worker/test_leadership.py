"""When a standby takes over, as a table of looks; and when a leader renews."""

import pytest

from engine_worker.leadership import Decision, Renewals, Watch
from protocol.lease import Leader, Sight

LEASE_MS = 1_000
LEADER = Leader("engine-0", 41, LEASE_MS, epoch=3, client_id=7, connection="engine-0:41")
RECONNECTED = LEADER._replace(client_id=9)
OTHER = Leader("engine-0-standby-1", 42, LEASE_MS, epoch=4, client_id=8, connection="engine-0-standby-1:42")

HELD = Sight(LEADER, 700, connected=True)
GONE = Sight(LEADER, 700, connected=False)
BACK = Sight(RECONNECTED, 990, connected=True)
BACK_AND_GONE = Sight(RECONNECTED, 600, connected=False)
OTHER_GONE = Sight(OTHER, 700, connected=False)
FREE = Sight(None)
AWAY = None
"""Redis did not answer."""

F, T = Decision.FOLLOW, Decision.TAKE_OVER

TABLE: dict[str, list[tuple[int, Sight | None, Decision | None]]] = {
    "a leader that holds its lease is followed, however "
    "long": [(0, HELD, F), (50, HELD, F), (90_000, HELD, F)],
    "a shard that nobody leads is taken at once": [(0, FREE, T)],
    "a lease that runs out, or is given up, is taken at once": [(0, HELD, F), (50, FREE, T)],
    "a connection that stays gone is taken for a killed "
    "process": [(0, HELD, F), (50, GONE, F), (200, GONE, F), (250, GONE, T)],
    "what was gone once may be back at the next "
    "look": [(0, GONE, F), (50, HELD, F), (100, GONE, F), (250, GONE, F), (300, GONE, T)],
    "a leader that reconnects is given its time again": [
        (0, GONE, F), (150, BACK, F), (200, BACK_AND_GONE, F), (350, BACK_AND_GONE, F),
        (400, BACK_AND_GONE, T),
    ],
    "each leader's connection is watched for itself": [
        (0, GONE, F), (100, GONE, F), (150, OTHER_GONE, F), (300, OTHER_GONE, F), (350, OTHER_GONE, T),
    ],
    "when Redis was away the leader gets a lease's time to come "
    "back": [(0, HELD, F), (50, AWAY, None), (1_049, FREE, F), (1_050, FREE, T)],
    "it is time from the last failure": [(0, AWAY, None), (900, AWAY, None), (1_500, GONE, F), (1_899, FREE,
        F), (1_900, FREE, T)],
    "what was seen before Redis was away does not count": [
        (0, GONE, F), (100, AWAY, None), (1_100, GONE, F), (1_250, GONE, F), (1_300, GONE, T),
    ],
    "a leader that is back after Redis was away is "
    "followed": [(0, AWAY, None), (500, BACK, F), (1_000, BACK, F), (9_000, BACK, F)],
}  # fmt: skip


@pytest.mark.parametrize("story", TABLE)
def test_what_a_standby_does(story: str) -> None:
    watch = Watch(LEASE_MS)
    before_ms = 0
    for now_ms, sight, expected in TABLE[story]:
        if sight is not None:  # a standby looks often
            for between_ms in range(before_ms + 50, now_ms, 50):
                watch.decide(sight, between_ms)
        before_ms = now_ms
        if sight is None:
            watch.redis_was_away(now_ms)
        else:
            assert watch.decide(sight, now_ms) is expected, f"at {now_ms} ms"


def test_a_standby_that_could_not_look_gives_the_leader_time() -> None:
    """Redis may have stalled until the lease had run out, and the leader's renewal may come next."""
    watch = Watch(LEASE_MS)
    assert watch.decide(HELD, 0) is F
    assert watch.decide(FREE, 1_200) is F
    assert watch.decide(BACK, 1_250) is F
    assert watch.decide(FREE, 1_300) is F
    assert watch.decide(FREE, 1_750) is F
    assert watch.decide(FREE, 2_200) is T


def test_a_lease_is_renewed_four_times_in_its_length() -> None:
    renewals = Renewals(LEADER, now_ms=0)
    assert [now_ms for now_ms in range(0, 1_001, 50) if renewals.due(now_ms) == LEADER] == [
        250,
        500,
        750,
        1_000,
    ]


def test_a_late_renewal_is_done_once() -> None:
    renewals = Renewals(LEADER, now_ms=0)
    assert [renewals.due(now_ms) for now_ms in (5_000, 5_001, 5_249, 5_250)] == [LEADER, None, None, LEADER]


def test_a_lease_is_of_usual_length_from_the_first_commit_on() -> None:
    renewals = Renewals(LEADER._replace(lease_ms=8_000), now_ms=0, usual_ms=1_000)
    assert [renewals.due(now_ms) for now_ms in (1_999, 2_000, 2_001)] == [
        None,
        LEADER._replace(lease_ms=8_000),
        None,
    ]
    renewals.committed()
    assert [renewals.due(now_ms) for now_ms in (2_002, 2_251, 2_252)] == [LEADER, None, LEADER]
    renewals.committed()
    assert renewals.due(2_253) is None


def test_a_leader_is_read_as_it_was_written() -> None:
    assert Leader.parse(LEADER.encode()) == LEADER


def test_a_lease_that_lasts_longer_than_leases_can_is_taken_over_after_the_time_of_one() -> None:
    """It was renewed while Redis's clock was ahead, and its leader ended before it could do so again."""
    leader = Leader("engine-0", 1, 1_000, 1)
    watch = Watch(1_000)
    hour = 3_600_000
    looks = [watch.decide(Sight(leader, hour - now, True), now) for now in range(0, 1_050, 50)]
    assert looks == [Decision.FOLLOW] * 20 + [Decision.TAKE_OVER]
    living = Watch(1_000)
    assert {
        living.decide(Sight(leader, hour if now < 250 else 1_000, True), now) for now in range(0, 3_000, 50)
    } == {Decision.FOLLOW}
