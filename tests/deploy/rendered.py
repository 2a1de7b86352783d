"""The overlays as `kubectl apply -k` would send them."""

import copy
import functools
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
OVERLAYS: Final = ("local", "minimal", "production")
VERSION: Final[str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

Object = dict[str, Any]
"""One Kubernetes object."""


def kubectl() -> str:
    """Return the path of kubectl; skip the test when there is none."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl on PATH; install one (1.30 or newer) to check the files in k8s/")
    return program


def render(folder: Path) -> list[Object]:
    """Return the objects of the kustomization in a folder."""
    text = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=True
    ).stdout
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@functools.cache
def _rendered(overlay: str) -> list[Object]:
    return render(ROOT / "k8s" / "overlays" / overlay)


def rendered(overlay: str) -> list[Object]:
    """Return an overlay's objects, each time anew: tests change them."""
    return copy.deepcopy(_rendered(overlay))


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """Return the objects of some kinds."""
    return [each for each in objects if each["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    """Return one object."""
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found
