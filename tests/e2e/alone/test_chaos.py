"""`exchange chaos`: a real exchange stays true while it is broken.

That it does not without its safeguards, tests/long shows.
"""

import pytest

from tests.support.chaos_runs import TIMEOUT_S, broken, chaos

pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)


# Takes long: faults need time to happen: half a minute of chaos is the least that has several.
def test_a_broken_exchange_keeps_its_promises() -> None:
    status, found = chaos(
        *("--kills", "6", "--pauses", "2", "--redis-kills", "1", "--db-outages", "1", "--outage-s", "4"),
        *("--orders", "2000", "--rate", "400", "--shards", "2"),
    )
    assert broken(found) == {}
    assert (status, found["clean"]) == (0, True)
    assert found["result"]["faults"] == {"kill": 6, "pause": 2, "redis kill": 1, "database stop": 1}
