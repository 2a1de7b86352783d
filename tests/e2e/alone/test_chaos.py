"""`exchange chaos`: a real exchange stays true while it is broken.

That it does not without its safeguards, tests/long shows.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

TIMEOUT_S = 560

pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)


def chaos(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = subprocess.run(
        [sys.executable, "-m", "cli.main", "chaos", "--seed", "1", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


def broken(found: dict[str, Any]) -> dict[str, list[str]]:
    checks = found["result"]["verdict"]["checks"]
    return {
        check["name"]: check["breaches"] for check in checks if check["breach_count"] or not check["examined"]
    }


def test_a_broken_exchange_keeps_its_promises() -> None:
    status, found = chaos(
        *("--kills", "6", "--pauses", "2", "--redis-kills", "1", "--db-outages", "1", "--outage-s", "4"),
        *("--orders", "2000", "--rate", "400", "--shards", "2"),
    )
    assert broken(found) == {}
    assert (status, found["clean"]) == (0, True)
    assert found["result"]["faults"] == {"kill": 6, "pause": 2, "redis kill": 1, "database stop": 1}
