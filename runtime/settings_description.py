"""Describes the settings: variable, type, default and text, in the sections of runtime/settings.py.

`python -m runtime.settings_description` prints docs/reference/settings.md.
"""

import ast
import inspect
import sys
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from runtime import settings
from runtime.settings import DATA_DIR, PREFIX, ClusterSettings, Settings

_HEAD: Final = """\
# Settings

Every setting is an environment variable. `EXCHANGE_…_FILE` names a file with the value instead, for
example for a secret. A wrong value, or a variable that no setting has, stops a process at its
start. Commands use the settings with which `exchange up` was started, unless the environment
overrides them.

The settings of the first section belong to the exchange as a whole. A process that starts with
other values than the running ones have is refused; to change one, stop the exchange and start it
again. All others are each process's own.

This document is generated: `python -m runtime.settings_description > docs/reference/settings.md`.
"""
_TABLE: Final = ("| variable | values | default | meaning |", "| --- | --- | --- | --- |")


class Setting(NamedTuple):
    """One setting, as documents and commands show it."""

    name: str
    variable: str
    values: str
    """The possible values, in words."""
    default: str
    text: str


class Section(NamedTuple):
    """Settings under one heading."""

    title: str
    settings: list[Setting]


def sections() -> list[Section]:
    """Return all settings in their order."""
    # Titles are comments and descriptions stand below their fields: neither exists at run time.
    source = inspect.getsource(settings)
    lines = source.splitlines()
    kinds = (ClusterSettings.__name__, Settings.__name__)
    definitions = [
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name in kinds
    ]
    types = get_type_hints(Settings, include_extras=True)
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    result: list[Section] = []
    last_line = definitions[0].lineno
    for node, following in pairwise(statement for definition in definitions for statement in definition.body):
        if not isinstance(node, ast.AnnAssign):
            continue
        assert isinstance(node.target, ast.Name)
        assert isinstance(following, ast.Expr)
        assert isinstance(following.value, ast.Constant)
        titles = [line.strip()[2:] for line in lines[last_line : node.lineno] if line.startswith("    # ")]
        if titles:
            result.append(Section(titles[-1], []))
        last_line = following.end_lineno or node.lineno
        name = node.target.id
        text = " ".join(str(following.value.value).split())
        result[-1].settings.append(
            Setting(name, PREFIX + name.upper(), _values(types[name]), _shown(defaults[name]), text)
        )
    return result


def document() -> str:
    """Return docs/reference/settings.md."""
    parts = [_HEAD]
    for section in sections():
        rows = [" | ".join(("", *_row(setting), "")).strip() for setting in section.settings]
        parts.append("\n".join((f"\n## {section.title}\n", *_TABLE, *rows, "")))
    return "".join(parts)


def _row(setting: Setting) -> tuple[str, str, str, str]:
    default = f"`{setting.default}`" if setting.default else "–"
    return f"`{setting.variable}`", setting.values, default, setting.text


def _values(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        base, *rest = get_args(kind)
        (meta,) = rest
        low = meta.ge if meta.ge is not None else (meta.gt + 1 if meta.gt is not None else None)
        bounds = f"{low} to {meta.le}" if meta.le is not None else f"{low} or more"
        return bounds if base is int else f"{base.__name__}, {bounds}"
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if bool in (kind, *get_args(kind)):
        return "true, false"
    return "a path" if kind is not str else "text"


def _shown(default: object) -> str:
    if default is None or default == "":
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ".run" if default == DATA_DIR else str(default)


if __name__ == "__main__":
    sys.stdout.write(document())
