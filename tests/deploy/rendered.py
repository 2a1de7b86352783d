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


@functools.cache
def _rendered(overlay: str) -> list[Object]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl on PATH; install one (1.30 or newer) to check the files in k8s/")
    text = subprocess.run(
        [kubectl, "kustomize", str(ROOT / "k8s" / "overlays" / overlay)], capture_output=True, text=True, check=True
    ).stdout
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


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
