"""What feeds write in one step may be a lot: the first save after a restore has a day of every market."""

import pytest
import redis

from feeds.first_fills import Forgiven
from feeds.state import Outputs, SavedState
from feeds.store import FeedsStore, Mark
from protocol import streams
from protocol.stream_id import STREAM_START, StreamId
from stream_log.interface import Rewound

MARKETS, CHUNKS_A_DAY = 100, 144


def test_a_day_of_a_hundred_markets_is_saved_and_expires_in_one_step(redis_url: str) -> None:
    store = FeedsStore.connect(redis_url)
    store.take_over(0)
    chunks = {f"M{market}:{number}": b"[]" for market in range(MARKETS) for number in range(CHUNKS_A_DAY)}
    first, second = Mark(StreamId(1), 1), Mark(StreamId(2), 2)
    store.commit(0, Mark(STREAM_START, 0), first, Outputs(), saved=SavedState(b"one", chunks))
    saved = store.load(0)
    assert (saved.published_id, saved.state, len(saved.chunks)) == (
        first.stream_id,
        b"one",
        MARKETS * CHUNKS_A_DAY,
    )
    store.commit(0, first, second, Outputs(), saved=SavedState(b"two", {}, list(chunks)))
    saved = store.load(0)
    assert (saved.published_id, saved.state, saved.chunks) == (second.stream_id, b"two", {})
    store.close()


def test_orders_that_have_traded_are_taken_off_their_count_once(redis_url: str) -> None:
    store = FeedsStore.connect(redis_url)
    store.take_over(0)
    marks = [Mark(STREAM_START, 0), *(Mark(StreamId(number), number) for number in range(1, 9))]
    key, other = "rate:{0}:orders10s:7:1", "rate:{0}:orders10s:8:1"
    with redis.Redis.from_url(redis_url) as client, client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(streams.RATE_WORDS)
        listener.get_message(timeout=10)
        client.hset(key, mapping={"t": 10, "u": 5, "v": 3})

        def pot() -> list[int]:
            return [int(value or 0) for value in client.hmget(key, ["t", "u", "v"])]

        forgiven = Outputs(forgiven={key: Forgiven(2, 0), other: Forgiven(1, 1)})
        store.commit(0, marks[0], marks[1], forgiven)
        assert pot() == [8, 3, 4]
        assert not client.exists(other), "nobody has counted there"
        heard = listener.get_message(timeout=10)
        assert heard["data"] == f"\n{key} 3 8 4 0".encode()
        # Whoever repeats a step, as a process that has been stopped in between may, changes nothing.
        with pytest.raises(Rewound):
            store.commit(0, marks[0], marks[1], forgiven)
        assert pot() == [8, 3, 4]
        store.commit(0, marks[1], marks[2], Outputs(forgiven={key: Forgiven(9, 0)}))
        assert pot() == [5, 0, 5], "orders of an earlier window give no credit"
        store.commit(0, marks[2], marks[3], Outputs(forgiven={key: Forgiven(2, 1)}))
        assert pot() == [4, -1, 6], "what is not told yet is given back all the same"
    store.close()
