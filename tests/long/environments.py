"""What an environment in use has to bear besides what tests/e2e/alone/test_environment.py shows; and its control.

Run by `make test-long`; not part of `make test`, which does not collect files of such names.
"""

import subprocess
from pathlib import Path

from tests.e2e.alone.test_environment import TIMEOUT_S, checkout, failures_during_setup

__all__ = ["checkout"]


def test_going_back_to_an_earlier_version_leaves_its_environment_alone(checkout: Path) -> None:
    first = (checkout / ".venv").readlink()
    lock = checkout / "requirements.lock"
    before = lock.read_bytes()
    with subprocess.Popen(
        [checkout / ".venv" / "bin" / "python", "-c", "import msgspec; input()"], stdin=-1
    ) as running:
        # From elsewhere, and by another way, as people do it.
        (checkout.parent / "link").symlink_to(checkout)
        for text in (before + b"# another version\n", before):
            lock.write_bytes(text)
            subprocess.run(["../../link/scripts/setup", "runtime"], cwd=checkout / "cli", check=True, timeout=TIMEOUT_S)
            assert (checkout / first / "bin" / "python").exists()
        assert (checkout / ".venv").readlink() != first
        running.kill()


def test_an_environment_that_is_changed_in_place_is_missed(checkout: Path) -> None:
    # The control: the script builds in the folder that .venv names now.
    script = checkout / "scripts" / "setup"
    text, planted = script.read_text("utf-8"), "new=.venvs/$group-$inputs.$$\n"
    assert planted in text
    script.write_text(text.replace(planted, 'new=$(readlink .venv)\nrm -rf "$new"\n'), "utf-8")
    assert failures_during_setup(checkout) != []
