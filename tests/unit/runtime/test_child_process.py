"""A child looks for modules where its parent does."""

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = (
    "import subprocess; from runtime import child_process; subprocess.run(child_process.command('shadowed'))"
)


@pytest.mark.parametrize(("safe", "is_found"), [(["-P"], False), ([], True)])
def test_the_folder_is_looked_into_only_if_the_parent_does(
    tmp_path: Path, safe: list[str], is_found: bool
) -> None:
    (tmp_path / "shadowed.py").write_text("print('run')")
    command = [sys.executable, *safe, "-c", _PROGRAM]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (printed == "run\n") is is_found
