"""The SQL in the sources of a package, found by reading them."""

import ast
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final

_PARAMETER: Final = re.compile(r"%\(\w+\)s")
_STATEMENT: Final = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\s", re.IGNORECASE)


def statements_of(*packages: str, but: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield (module, statement) of every literal statement in packages, `but` those of some modules."""
    for package in packages:
        folder = Path(str(resources.files(package)))
        for file in sorted(folder.rglob("*.py")):
            module = ".".join((package, *file.relative_to(folder).with_suffix("").parts))
            if module not in but:
                yield from ((module, statement) for statement in statements_in(file.read_text("utf-8")))


def statements_in(source: str) -> Iterator[str]:
    """Yield every literal statement of a module.

    Of an f-string it is each part, without what is put in between.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if _STATEMENT.match(text) and re.search(r"\b(FROM|INTO|UPDATE)\b", text):
                yield text


def sql_in(source: str) -> Iterator[str]:
    """Yield every text of a module that reads as SQL or a part of it.

    F-strings whole, with … for what is put in between.
    """
    for node in ast.walk(ast.parse(source)):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        if _PARAMETER.search(text) or (_STATEMENT.match(text) and re.search(r"\b(FROM|INTO|UPDATE)\b", text)):
            yield text
