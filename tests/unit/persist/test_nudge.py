import pytest

from persist.nudge import LINGER_MS, LOOK_MS, Nudger
from protocol.streams import EventReader, events
from stream_log.memory_log import MemoryStreamLog

SWEEP_MS = 5_000


class Nudged:
    """A nudger over two shards, and what it sent."""

    def __init__(self) -> None:
        self.time_ms = 1_000
        self.log = MemoryStreamLog(lambda: self.time_ms)
        self.sent: list[int] = []
        self.queued = 0
        self.nudger = Nudger(self.log, range(2), self.sent.append, lambda: self.queued, SWEEP_MS)
        self.nudger.step(0)
        self.sent.clear()

    def happens(self, shard: int) -> None:
        self.time_ms += 10
        self.log.append(events(shard), {b"e": b""})

    def ingested(self, shard: int) -> None:
        self.log.mark_passed(shard, EventReader.PERSIST, self.log.last_id(events(shard)))

    def step(self, now_ms: int = 1) -> list[int]:
        self.sent.clear()
        self.nudger.step(now_ms)
        return self.sent


@pytest.fixture
def nudged() -> Nudged:
    return Nudged()


def test_the_first_look_nudges_every_shard() -> None:
    sent: list[int] = []
    Nudger(MemoryStreamLog(lambda: 1), range(3), sent.append, lambda: 0, SWEEP_MS).step(0)
    assert sent == [0, 1, 2]


def test_an_event_nudges_its_shard_once_until_it_is_ingested(nudged: Nudged) -> None:
    nudged.happens(1)
    assert nudged.step() == [1]
    nudged.happens(1)
    assert nudged.step() == []
    assert nudged.nudger.is_waiting()
    nudged.ingested(1)
    assert nudged.step() == []
    assert not nudged.nudger.is_waiting()


def test_what_came_while_a_nudge_was_worked_on_nudges_again(nudged: Nudged) -> None:
    nudged.happens(0)
    assert nudged.step() == [0]
    nudged.ingested(0)
    nudged.happens(0)
    assert nudged.step(1 + LINGER_MS) == [0]


def test_events_after_a_nudge_are_collected_for_a_while(nudged: Nudged) -> None:
    nudged.happens(0)
    assert nudged.step(1_000) == [0], "the first one after a pause does not wait"
    nudged.ingested(0)
    nudged.happens(0)
    assert nudged.step(1_000 + LINGER_MS - 1) == []
    assert nudged.nudger.pause_ms(1_020) == LINGER_MS - 20
    nudged.happens(1)
    assert nudged.step(1_000 + LINGER_MS - 1) == [1], "another shard's are not"
    assert nudged.step(1_000 + LINGER_MS) == [0]


def test_nothing_is_collected_while_somebody_waits(nudged: Nudged) -> None:
    nudged.happens(0)
    assert nudged.step(1_000) == [0]
    nudged.ingested(0)
    nudged.happens(0)
    nudged.nudger.want(0)
    assert nudged.step(1_000 + LOOK_MS) == [0]
    nudged.ingested(0)
    nudged.happens(0)
    assert nudged.step(1_000 + 2 * LOOK_MS) == [], "who waited has it; nobody waits for this one"


def test_who_asks_for_ever_more_does_not_make_a_transaction_of_every_event(nudged: Nudged) -> None:
    nudges = 0
    for now_ms in range(1_000, 2_000):
        nudged.happens(0)
        nudged.nudger.want(0)
        nudges += len(nudged.step(now_ms))
        nudged.ingested(0)
    assert 1_000 // LOOK_MS <= nudges <= 1_000 // LOOK_MS + 1


def test_who_begins_to_wait_while_a_nudge_is_worked_on_gets_another_nudge_at_once(nudged: Nudged) -> None:
    nudged.happens(0)
    assert nudged.step(1_000) == [0]
    stored = nudged.log.last_id(events(0))
    nudged.happens(0)
    nudged.nudger.want(0)
    assert nudged.step(1_001) == []
    assert nudged.nudger.pause_ms(1_001) == LOOK_MS
    nudged.log.mark_passed(0, EventReader.PERSIST, stored)
    assert nudged.step(1_000 + LOOK_MS) == [0]


def test_who_waits_for_what_is_stored_already_ends_nothing(nudged: Nudged) -> None:
    nudged.happens(0)
    assert nudged.step(1_000) == [0]
    nudged.ingested(0)
    nudged.nudger.want(0)
    nudged.nudger.want(7)
    assert nudged.step(1_001) == []
    nudged.happens(0)
    assert nudged.step(1_002) == []
    assert nudged.nudger.pause_ms(1_000 + LINGER_MS + 1) == LOOK_MS


def test_the_sweep_makes_up_for_lost_nudges(nudged: Nudged) -> None:
    nudged.happens(0)
    assert nudged.step() == [0]
    assert nudged.step(SWEEP_MS - 1) == []
    assert nudged.step(SWEEP_MS) == [0, 1]


def test_the_sweep_does_not_fill_the_queue_while_nobody_works(nudged: Nudged) -> None:
    nudged.queued = 2
    assert nudged.step(SWEEP_MS) == []


def test_the_sweep_nudges_a_shard_that_stands_although_nudges_seem_to_be_worked_on(nudged: Nudged) -> None:
    nudged.queued = 2
    nudged.happens(0)
    assert nudged.step() == [0]
    assert nudged.step(SWEEP_MS) == [0]
    assert nudged.step(2 * SWEEP_MS) == [0]
    nudged.queued = 20
    assert nudged.step(3 * SWEEP_MS) == []


def test_a_new_nudger_nudges_for_what_was_left(nudged: Nudged) -> None:
    nudged.happens(0)
    nudged.happens(1)
    nudged.ingested(1)
    sent: list[int] = []
    Nudger(nudged.log, range(2), sent.append, lambda: 2, SWEEP_MS).step(0)
    assert sent == [0]


def test_the_lag_is_the_age_of_what_is_not_ingested(nudged: Nudged) -> None:
    nudged.ingested(0)
    nudged.time_ms += 3_600_000
    nudged.happens(0)
    nudged.step()
    assert nudged.nudger.lag_ms() == 0, "a pause in trading is no lag"
    for _ in range(7):
        nudged.happens(0)
    nudged.step()
    assert nudged.nudger.lag_ms() == 70
    nudged.ingested(0)
    nudged.step()
    assert nudged.nudger.lag_ms() == 0
