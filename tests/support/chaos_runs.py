"""Running `exchange chaos`, whole or with a safeguard taken away."""

import json
import subprocess
import sys
from typing import Any

TIMEOUT_S = 560


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
