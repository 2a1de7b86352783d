"""Controls of `exchange chaos`: without one of its safeguards the verdict on a broken exchange is not clean.

Run by `make test-long`; not part of `make test`, which does not collect files of such names.
"""

import pytest

from tests.support.chaos_runs import TIMEOUT_S, broken, chaos

pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)


@pytest.mark.parametrize(
    ("control", "check"), [("--break-fence", "log"), ("--break-dedup", "outcomes"), ("--break-wait", "log")]
)
def test_without_a_safeguard_the_verdict_is_not_clean(control: str, check: str) -> None:
    status, found = chaos(control, "--orders", "800", "--rate", "300")
    assert (status, found["clean"]) == (1, False)
    assert check in broken(found)


def test_without_draining_requests_are_cut_off() -> None:
    status, found = chaos("--break-drain", "--orders", "600", "--rate", "150", "--standbys", "0")
    assert (status, found["clean"]) == (1, False)
    assert "retries" in broken(found)
    assert "the connection was lost before the answer" in broken(found)["retries"][0]
