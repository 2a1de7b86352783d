"""The production image has what the exchange runs on, and nothing of what it is tried with."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deploy.rendered import ROOT

NOT_FOR_PRODUCTION = {"lab", "loadtests", "tests", "examples", "deploy"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile installs: the wheel that is built of the files that .dockerignore lets in."""
    source, built, installed = (tmp_path_factory.mktemp(name) for name in ("source", "built", "installed"))
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if line.startswith("!"):
            each = ROOT / line[1:]
            copy = shutil.copytree if each.is_dir() else shutil.copy
            copy(each, source / each.name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(built)],
        cwd=source,
        check=True,
    )
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


def test_there_is_nothing_of_what_the_exchange_is_tried_with(installed: Path) -> None:
    folders = {each.name for each in installed.iterdir() if each.suffix != ".dist-info"}
    assert not folders & NOT_FOR_PRODUCTION
    assert {"cli", "engine_worker", "functions", "gateway", "persist", "stream_log", "ws_edge"} <= folders


def test_every_command_of_it_can_be_imported_without(installed: Path) -> None:
    program = (
        "from cli.main import main; commands = main.list_commands(None); "
        "print(*(main.get_command(None, each).name for each in commands))"
    )
    # Where the checkout is on the path it has the folders that are looked for here.
    environment = os.environ | {"PYTHONPATH": str(installed)}
    finder = f"import sys; sys.path[:] = [each for each in sys.path if each != {str(ROOT)!r}]; "
    printed = subprocess.run(
        [sys.executable, "-P", "-c", finder + program],
        env=environment,
        capture_output=True,
        text=True,
        cwd=installed,
    )
    assert printed.returncode == 0, printed.stderr
    commands = set(printed.stdout.split())
    assert {"up", "status", "restore", "why"} <= commands
    assert not commands & {"bench", "chaos", "load", "simulate"}
