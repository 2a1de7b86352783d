"""Finds exceptions that modules keep: every raise of such an instance makes its traceback longer, and keeps
more frames alive.

`python -m tests.support.stored_exceptions PACKAGE …` prints a line for each. It searches everything that is
reachable from the packages' modules once they are imported: constants, classes, defaults and closures of
functions, containers, and their own objects.
"""

import gc
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any


def modules_of(packages: Iterable[str]) -> Iterator[ModuleType]:
    """Import every module of the packages."""
    for package in packages:
        module = importlib.import_module(package)
        yield module
        for each in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{package}."):
            try:
                yield importlib.import_module(each.name)
            except ImportError:
                # Without a compiler there is no extension, and nothing that needs it.
                if not each.name.startswith(("engine_worker.core_fast.", "feeds.fast.", "persist.fast.")):
                    raise


def stored_exceptions(modules: Iterable[ModuleType]) -> list[str]:
    """Return `module: exception` for each instance that can be reached from a module."""
    searched = list(modules)
    names = {module.__name__ for module in searched}
    foreign = {id(vars(module)) for name, module in list(sys.modules.items()) if name not in names}
    found: list[str] = []
    seen: set[int] = set(foreign)
    for module in searched:
        waiting: list[Any] = [vars(module)]
        while waiting:
            each = waiting.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            if isinstance(each, BaseException):
                found.append(f"{module.__name__}: {each!r}")
            elif _is_ours(each, names):
                waiting += gc.get_referents(each)
    return found


def _is_ours(each: object, names: set[str]) -> bool:
    """Return whether what an object refers to was put there by one of our modules."""
    if isinstance(each, ModuleType | FrameType | CodeType):
        return False
    if isinstance(each, type | FunctionType):
        return each.__module__ in names
    return True


def main() -> None:
    for line in stored_exceptions(modules_of(sys.argv[1:])):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
