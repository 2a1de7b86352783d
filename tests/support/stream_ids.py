"""Stream ids at their bounds, for hypothesis."""

from hypothesis import strategies as st

from protocol.stream_id import NUMBER_MAX, StreamId

PARTS = st.integers(0, NUMBER_MAX) | st.integers(0, 3)


IDS = st.builds(StreamId, PARTS, PARTS)
