"""The modules that are written in Cython, and whether what was built is of the sources that are here.

`python -m engine_worker.core_fast.build` builds them. Every one of them is an addition: without it the same
is done by Python.
"""

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

_ROOT: Final = Path(__file__).parents[1]
_WIRE: Final = _ROOT / "engine_worker" / "core_fast" / "wire.pxi"
"""Reading and writing msgpack."""


class Extension(NamedTuple):
    """A module that is written in Cython."""

    name: str
    """With its package's."""
    main: str
    """Its file in the package's folder; the others there are included."""
    option: str
    """`python -X OPTION=FOLDER` takes it from another folder: one with sanitizers."""
    shared: tuple[Path, ...] = ()
    """Files of other packages that it includes."""

    @property
    def package(self) -> Path:
        """The folder of its package."""
        return _ROOT.joinpath(*self.name.split(".")[:-1])

    @property
    def module(self) -> str:
        """Its name in the package."""
        return self.name.rpartition(".")[2]

    def sources(self) -> list[Path]:
        """Return its files."""
        return sorted((self.package / self.main, *self.package.glob("*.pxi"), *self.shared))


CORE: Final = Extension("engine_worker.core_fast._core", "core.pyx", "core_fast")
PERSIST_ROWS: Final = Extension("persist.fast._rows", "rows.pyx", "persist_fast", (_WIRE,))
FEEDS_HEADS: Final = Extension("feeds.fast._heads", "heads.pyx", "feeds_fast", (_WIRE,))
EXTENSIONS: Final = (CORE, FEEDS_HEADS, PERSIST_ROWS)


def sources_hash(extension: Extension = CORE) -> str:
    """Return the hash of the sources that the extension is built from."""
    hashed = hashlib.blake2b(digest_size=16)
    for path in extension.sources():
        hashed.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()


def built(extension: Extension) -> Any:
    """Return the module; None if it is not built, or was built from other sources."""
    package = importlib.import_module(extension.name.rpartition(".")[0])
    if isinstance(folder := sys._xoptions.get(extension.option), str):
        package.__path__.insert(0, folder)
    try:
        module = importlib.import_module(extension.name)
    except ImportError:
        return None
    return module if sources_hash(extension) == module.SOURCES_HASH else None
