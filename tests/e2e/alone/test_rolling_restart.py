"""`exchange restart` of everything, one process after the other, under load: nobody is cut off, nothing is
lost, nothing is doubled.

The load and the verdict are those of `exchange chaos`; tests/long/chaos_controls.py takes away that processes
finish what is under way.
"""

import pytest

from tests.support.chaos_runs import TIMEOUT_S, broken, chaos

ENGINES = {"engine-0", "engine-0-standby-1"}
"""Whichever stands by comes first."""
OTHERS = [
    *("feeds", "persist-nudger", "persist-worker", "persist-worker-2"),
    *("gateway", "gateway-2", "ws-edge", "ws-edge-2"),
]

pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)


# Takes long: every process of an exchange with replicas is replaced, one after the other, each once the
# last is ready.
def test_an_upgrade_under_load_is_not_noticed() -> None:
    status, found = chaos("--rolling", "--orders", "800", "--rate", "150")
    result = found["result"]
    assert broken(found) == {}
    assert (status, found["clean"]) == (0, True)
    first, second, *others = [each["process"] for each in result["restarted"]]
    assert ({first, second}, others) == (ENGINES, OTHERS)
    # Nobody died, was killed, or was started a second time.
    assert not any(result["restarts"].values())
