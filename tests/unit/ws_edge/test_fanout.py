"""A turn delivers so much and no more.

What waits is conflated, in order, and nothing is lost that must not be.
"""

from typing import Any

from protocol.market_data import DepthDiff
from protocol.units import PriceTicks, QuantityLots, Sequence, TimeMs
from tests.support.market_log import market_map
from ws_edge.conflation import Conflation, Update
from ws_edge.fanout import WAITING_MAX, WAITING_S_MAX, Fanout


class Client:
    """Remembers what it got."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def deliver(self, update: Update) -> None:
        self.got.append(update.diff[1] if update.diff is not None else update.payload(1))


def state(stream: str, value: int) -> Update:
    return Update(stream, lambda _scale: value, Conflation.NEWEST)


def event(stream: str, value: int) -> Update:
    return Update(stream, lambda _scale: value)


def listening(clients: int, *streams: str) -> tuple[dict[str, dict[Client, None]], list[Client]]:
    everybody = [Client() for _ in range(clients)]
    return {stream: dict.fromkeys(everybody) for stream in streams}, everybody


def test_what_fits_into_a_turn_is_delivered_at_once() -> None:
    listeners, (one, other) = listening(2, "a")
    fanout = Fanout(listeners, per_turn=10)
    for value in range(5):
        assert fanout.publish(event("a", value), 0.0) == 2
    assert one.got == other.got == [b"0", b"1", b"2", b"3", b"4"]
    assert len(fanout) == 0


def test_a_turn_delivers_no_more_than_its_part() -> None:
    listeners, clients = listening(7, "a")
    fanout = Fanout(listeners, per_turn=10)
    for value in range(5):
        fanout.publish(event("a", value), 0.0)
    delivered = [sum(len(each.got) for each in clients)]
    while fanout.turn():
        delivered.append(sum(len(each.got) for each in clients))
    assert delivered == [7, 17, 27]
    assert all(each.got == [b"0", b"1", b"2", b"3", b"4"] for each in clients)


def test_of_states_the_newest_counts_and_every_event_is_delivered() -> None:
    listeners, (client,) = listening(1, "state", "event")
    fanout = Fanout(listeners, per_turn=1)
    fanout.publish(event("event", 0), 0.0)  # the whole turn
    for value in range(1, 4):
        fanout.publish(event("event", value), 0.0)
        fanout.publish(state("state", 100 + value), 0.0)
    while fanout.turn():
        pass
    assert client.got == [b"0", b"1", b"103", b"2", b"3"]
    assert fanout.conflated == 2


def test_the_last_of_a_candle_is_not_replaced() -> None:
    listeners, (client,) = listening(1, "candle", "x")
    fanout = Fanout(listeners, per_turn=1)
    fanout.publish(event("x", 0), 0.0)
    for update in (state("candle", 1), event("candle", 2), state("candle", 3), state("candle", 4)):
        fanout.publish(update, 0.0)
    while fanout.turn():
        pass
    assert client.got == [b"0", b"2", b"4"]


def test_depth_is_merged() -> None:
    market = market_map().by_symbol["BTCUSDT"]
    listeners, (client,) = listening(1, "depth", "x")
    fanout = Fanout(listeners, per_turn=1)
    fanout.publish(event("x", 0), 0.0)
    for number in (1, 2, 3):
        diff = DepthDiff(
            market="BTCUSDT",
            time=TimeMs(number),
            first_sequence=Sequence(number),
            last_sequence=Sequence(number),
            bids=((PriceTicks(number), QuantityLots(10)),),
            asks=(),
        )
        fanout.publish(Update.of_depth("depth", market, diff), 0.0)
    while fanout.turn():
        pass
    _, merged = client.got
    assert (merged.first_sequence, merged.last_sequence) == (1, 3)
    assert [level[0] for level in merged.bids] in ([1, 2, 3], [3, 2, 1])


def test_whoever_has_left_gets_nothing() -> None:
    listeners, clients = listening(3, "a")
    fanout = Fanout(listeners, per_turn=1)
    fanout.publish(event("a", 0), 0.0)
    listeners["a"].pop(clients[1])
    while fanout.turn():
        pass
    assert [len(each.got) for each in clients] == [1, 0, 1]


def test_when_somebody_has_to_leave() -> None:
    listeners, _ = listening(1, "a")
    fanout = Fanout(listeners, per_turn=1)
    assert fanout.publish(event("nobody's", 1), 0.0) == 0
    for value in range(WAITING_MAX + 1):
        fanout.publish(event("a", value), 10.0)
    assert (fanout.waits_since(), fanout.is_too_late(10.0)) == (10.0, False)
    assert fanout.is_too_late(10.1 + WAITING_S_MAX)
    fanout.publish(event("a", 0), 10.0)
    assert fanout.is_too_late(10.0)
    listeners.clear()
    assert not fanout.turn()
    assert not fanout.is_too_late(100.0)
