"""No exception is built once and raised again and again: each raise would lengthen its traceback and keep its
frames alive."""

import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

from tests.support.stored_exceptions import stored_exceptions

ROOT = Path(__file__).parents[2]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "packages"
]
TIMEOUT_S = 120

PLANTED = """
from functools import partial

class Refused(Exception):
    IN_A_CLASS = ValueError("in a class")

class Holder:
    def __init__(self):
        self.error = Refused("in an object")

def default(error=Refused("in a default")):
    raise error

def closure():
    error = Refused("in a closure")
    def refuse():
        raise error
    return refuse

CONSTANT = Refused("constant")
TABLE = {"a": [Refused("in a container")]}
HOLDER, REFUSE, PARTIAL = Holder(), closure(), partial(default, Refused("in a partial"))

def made_when_raised():
    raise Refused("made when raised")
"""


def test_no_module_keeps_an_exception() -> None:
    # In a process of its own: what tests and their libraries keep is no concern here.
    command = [sys.executable, "-m", "tests.support.stored_exceptions", *PACKAGES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert done.stdout.splitlines() == []


def test_every_place_to_keep_one_is_looked_at() -> None:
    module = ModuleType("planted")
    exec(PLANTED, vars(module))
    found = {line.partition("(")[2].strip("')") for line in stored_exceptions([module])}
    assert found == {
        "in a class",
        "in an object",
        "in a default",
        "in a closure",
        "constant",
        "in a container",
        "in a partial",
    }
