"""What feeds write in one step may be a lot: the first save after a restore has a day of every market."""

from feeds.state import Outputs, SavedState
from feeds.store import FeedsStore, Mark
from protocol.streams import STREAM_START, stream_id_of

MARKETS, CHUNKS_A_DAY = 100, 144


def test_a_day_of_a_hundred_markets_is_saved_and_expires_in_one_step(redis_url: str) -> None:
    store = FeedsStore.connect(redis_url)
    store.take_over(0)
    chunks = {f"M{market}:{number}": b"[]" for market in range(MARKETS) for number in range(CHUNKS_A_DAY)}
    first, second = Mark(stream_id_of(1), 1), Mark(stream_id_of(2), 2)
    store.commit(0, Mark(STREAM_START, 0), first, Outputs(), saved=SavedState(b"one", chunks))
    saved = store.load(0)
    assert (saved.published_id, saved.state, len(saved.chunks)) == (first.stream_id, b"one", MARKETS * CHUNKS_A_DAY)
    store.commit(0, first, second, Outputs(), saved=SavedState(b"two", {}, list(chunks)))
    saved = store.load(0)
    assert (saved.published_id, saved.state, saved.chunks) == (second.stream_id, b"two", {})
    store.close()
