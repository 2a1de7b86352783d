"""An environment in use is never taken apart: `make up` in one terminal, `make test` or `make load` in
another, on a new checkout.

Run by `make test-long`; not part of `make test`, which does not collect files of such names.
"""

import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from cli.local.own_exchange import own_environment, own_exchange
from tests.deploy.rendered import ROOT
from tests.support.api import Api, new_account
from tests.support.eventually import eventually

TIMEOUT_S = 240
IMPORTS = (
    "import importlib.metadata, gateway.main, ws_edge.main, persist.main; "
    "importlib.metadata.version('exchange')"
)
KILLED = "persist-worker"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout as it is here, with what an exchange needs set up, and no development tools."""
    folder = tmp_path / "checkout"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().rstrip("\0").split("\0"):
        if (ROOT / name).is_file() and not name.startswith(("docs/", "frontend/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    result = subprocess.run(
        ["scripts/setup", "runtime"], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    if "could not install uv" in result.stderr:
        pytest.skip(f"the package index cannot be reached: {result.stderr}")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def failures_during_setup(checkout: Path, other: list[psutil.Process] | None = None) -> list[str]:
    """Install the development tools, and begin processes all the while.

    Return what those that failed have said.

    `other` are killed meanwhile, so that their supervisor has to start them.
    """
    failures = []
    setup = subprocess.Popen(
        ["scripts/setup", "dev"], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while setup.poll() is None:
        for process in other or ():
            process.kill()
        other = None
        begun = subprocess.run(
            ["sh", "-c", 'exec .venv/bin/python -P -c "$0"', IMPORTS],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        failures += [begun.stderr] if begun.returncode else []
    assert setup.returncode == 0
    return failures


def environment_of(process: psutil.Process) -> str:
    """Return the folder of the environment that a process runs in."""
    (folder,) = {part for part in Path(process.cmdline()[0]).parts if part.startswith(("runtime-", "dev-"))}
    return folder


def test_development_tools_are_installed_beside_a_running_exchange(checkout: Path, tmp_path: Path) -> None:
    environment = own_environment(tmp_path / "data", frontend_enabled="false", mm_enabled="false")
    with own_exchange(environment, (str(checkout / ".venv" / "bin" / "exchange"), "up")) as exchange:
        before = {each.name: each.pid for each in exchange.processes()}
        assert environment_of(psutil.Process(before["gateway"])).startswith("runtime-")

        assert failures_during_setup(checkout, [psutil.Process(before[KILLED])]) == []

        after = {each.name: each for each in exchange.processes()}
        assert {name for name, pid in before.items() if after[name].pid != pid} <= {KILLED}
        account = new_account(exchange.url, USDT="1000000")
        order = account.order("BTCUSDT", "BUY", "LIMIT", price="50000", quantity="0.01")
        assert order["status"] == "NEW"
        # The environment that the exchange runs in is still whole; what is started from now on has the new
        # one.
        exchange.command("restart", "ws-edge", timeout_s=TIMEOUT_S)
        started = next(each.pid for each in exchange.processes() if each.name == "ws-edge")
        assert environment_of(psutil.Process(started)).startswith("dev-")
        folder = checkout / ".venvs" / environment_of(psutil.Process(before["gateway"]))
        assert (folder / "bin" / "python").exists()
        eventually("history", lambda: Api(exchange.url, account.key, account.secret).signed(
            "GET", "/api/v3/allOrders", symbol="BTCUSDT"))  # fmt: skip


def test_going_back_to_an_earlier_version_leaves_its_environment_alone(checkout: Path) -> None:
    first = (checkout / ".venv").readlink()
    lock = checkout / "requirements/runtime.lock"
    before = lock.read_bytes()
    with subprocess.Popen(
        [checkout / ".venv" / "bin" / "python", "-c", "import msgspec; input()"], stdin=-1
    ) as running:
        # From elsewhere, and by another way, as people do it.
        (checkout.parent / "link").symlink_to(checkout)
        for text in (before + b"# another version\n", before):
            lock.write_bytes(text)
            subprocess.run(
                ["../../link/scripts/setup", "runtime"], cwd=checkout / "cli", check=True, timeout=TIMEOUT_S
            )
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
