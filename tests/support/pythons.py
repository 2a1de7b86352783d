"""Other versions of Python on this machine, with what the engine's core needs."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("msgspec", "sortedcontainers", "cryptography", "cffi", "pycparser", "typing-extensions")
IMPORTS = f"import {', '.join(name.replace('-', '_') for name in NEEDED)}"
INSTALL_S = 120
INSTALL_OPTIONS = ("--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:")


def interpreter(version: str) -> str | None:
    """Return a Python of this version that has the packages of `NEEDED`; None: there is none, or they cannot
    be installed.

    They are installed as the lock file has them, into an environment below `.run/`, where they are missing.
    """
    for candidate in _candidates(version):
        if _runs(candidate, f"import sys; assert '%d.%d' % sys.version_info[:2] == '{version}'"):
            return candidate if _runs(candidate, IMPORTS) else _installed(version, candidate)
    return None


def _candidates(version: str) -> Iterator[str]:
    named = os.environ.get(f"TEST_REPLAY_PYTHON_{version.replace('.', '_')}")
    if named:
        yield named
    yield sys.executable
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    # Where pyenv has installed them; its commands on the PATH refuse a version that was not chosen.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))


def _runs(python: str, program: str) -> bool:
    try:
        return not subprocess.run([python, "-c", program], capture_output=True).returncode
    except OSError:
        return False


def _installed(version: str, python: str) -> str | None:
    folder = ROOT / ".run" / "pythons" / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    own = str(folder / "bin" / "python")
    with (folder.parent / f"{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several tests at once the first one installs
        if _runs(own, IMPORTS):
            return own
        requirements = folder.parent / f"{version}.txt"
        requirements.write_text(_locked(NEEDED), "utf-8")
        uv = [sys.executable, "-m", "uv"]
        for command in (
            [*uv, "venv", "--quiet", "--allow-existing", "--python", python, str(folder)],
            [
                *uv,
                "pip",
                "install",
                "--quiet",
                "--require-hashes",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--python",
                own,
                "--requirement",
                str(requirements),
            ],
        ):
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_S)
            except (subprocess.SubprocessError, OSError):
                return None
    return own


def _locked(packages: tuple[str, ...]) -> str:
    """Return the lines of the lock file about these packages, with their hashes."""
    lock = (ROOT / "requirements/runtime.lock").read_text("utf-8")
    return "".join(re.findall(rf"^(?:{'|'.join(packages)})==.*\n(?:[ \t].*\n)*", lock, re.MULTILINE))
