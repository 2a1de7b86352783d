"""Builds the compiled core, and the compiled readers of events: `python -m engine_worker.core_fast.build`.

What is generated and compiled is in a folder beside the interpreter's environment, not in the source tree;
only the extensions themselves are put into their packages, where `.gitignore` names them. Nothing is done
when they are up to date.
"""

import argparse
import fcntl
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final, NamedTuple

PACKAGE: Final = Path(__file__).parent
_ROOT: Final = PACKAGE.parents[1]
SUFFIX: Final = importlib.machinery.EXTENSION_SUFFIXES[0]
_FLAGS: Final = ("-O3", "-g0", "-fwrapv", "-fno-strict-aliasing", "-fPIC", "-w")
_SANITIZED_FLAGS: Final = (
    "-O1", "-g", "-fwrapv", "-fno-strict-aliasing", "-fPIC", "-w", "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined", "-fno-sanitize=alignment",
)  # fmt: skip
_LINKED: Final = ("-bundle", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared",)
_CYTHON_MIN: Final = (3, 1)


class Extension(NamedTuple):
    """A module that is written in Cython."""

    name: str
    """With its package's."""
    main: str
    """Its file in the package's folder; the other ones are included."""
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


CORE: Final = Extension("engine_worker.core_fast._core", "core.pyx")
EXTENSIONS: Final = (
    CORE,
    Extension("feeds.fast._heads", "heads.pyx", (PACKAGE / "wire.pxi",)),
)


class CannotBuild(Exception):  # noqa: N818 - it says what this machine lacks
    """Something that the build needs is not here."""


def sources_hash(extension: Extension = CORE) -> str:
    """Return the hash of the sources that the extension is built from."""
    hashed = hashlib.blake2b(digest_size=16)
    for path in extension.sources():
        hashed.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()


def build_folder() -> Path:
    """Return where this interpreter's builds are: in its environment, or in `.run` for one outside of any."""
    inside = Path(sys.prefix) if sys.prefix != sys.base_prefix else _ROOT / ".run"
    return inside / "core_fast" / (sys.implementation.cache_tag or "python")


def built_hash(extension: Path) -> str | None:
    """Return the hash of the sources of a built extension, or None."""
    marker = extension.with_suffix(".hash")
    return marker.read_text() if extension.exists() and marker.exists() else None


def build_all() -> list[Path]:
    """Build every extension that is not up to date; return where they are.

    Raises:
        CannotBuild: names what is missing, or what the compiler said.
    """
    return [build(extension) for extension in EXTENSIONS]


def build(extension: Extension = CORE, *, is_sanitized: bool = False) -> Path:
    """Build an extension unless it is up to date; return where it is.

    Raises:
        CannotBuild: names what is missing, or what the compiler said.
    """
    folder = build_folder() / extension.module / ("sanitized" if is_sanitized else "plain")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # Who comes second finds it built.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build_in(folder, extension, is_sanitized=is_sanitized)


def _build_in(folder: Path, extension: Extension, *, is_sanitized: bool) -> Path:
    built = folder / f"{extension.module}{SUFFIX}"
    wanted = sources_hash(extension)
    if built_hash(built) != wanted:
        check_tools()
        _compile(folder, extension, built.name, wanted, _SANITIZED_FLAGS if is_sanitized else _FLAGS)
        built.with_suffix(".hash").write_text(wanted)
    if is_sanitized:
        return built
    target = extension.package / built.name
    if not target.exists() or target.read_bytes() != built.read_bytes():
        # Replaced as a whole: a process may have the old one open.
        shutil.copyfile(built, new := target.with_suffix(".new"))
        new.replace(target)
    return target


def check_tools() -> None:
    """Check whether everything is here that a build needs.

    Raises:
        CannotBuild: names what is missing.
    """
    missing = []
    if shutil.which("cc") is None:
        missing.append("a C compiler, as the command `cc`")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python.h, which is in the development package of this Python")
    if importlib.util.find_spec("Cython") is None:
        missing.append("Cython 3.1 or later, in this Python's environment")
    else:
        installed = importlib.metadata.version("Cython")
        if tuple(int(part) for part in installed.split(".")[:2]) < _CYTHON_MIN:
            missing.append(f"Cython 3.1 or later; {installed} is installed")
    if missing:
        raise CannotBuild("the compiled core needs " + "; and ".join(missing))


def _compile(folder: Path, extension: Extension, output: str, sources: str, flags: tuple[str, ...]) -> None:
    module = extension.module
    for path in extension.sources():
        shutil.copyfile(path, folder / path.name)
    source = (extension.package / extension.main).read_text()
    (folder / f"{module}.pyx").write_text(source.replace("@SOURCES_HASH@", sources))
    cython = (sys.executable, "-m", "cython", "-3", "--module-name", extension.name)
    _run((*cython, f"{module}.pyx", "-o", f"{module}.c"), folder)
    includes = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    _run(
        (
            "cc",
            *flags,
            *_LINKED,
            *(f"-I{include}" for include in sorted(includes)),
            f"{module}.c",
            "-o",
            output,
        ),
        folder,
    )


def _run(command: tuple[str, ...], folder: Path) -> None:
    done = subprocess.run(  # noqa: S603 - the commands above
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotBuild(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Build, and say where the extensions are or why there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan, beside the usual ones")
    arguments = parser.parse_args()
    try:
        for extension in EXTENSIONS:
            built = build(extension, is_sanitized=arguments.sanitize)
            sys.stdout.write(f"{built}\n")
            if arguments.sanitize:
                package = extension.name.rpartition(".")[0].removeprefix("engine_worker.").replace(".", "_")
                sys.stdout.write(
                    "run it with `LD_PRELOAD=$(cc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 "
                    f"python -X {package}={built.parent} ...`\n"
                )
    except CannotBuild as error:
        sys.exit(f"not built: {error}")


if __name__ == "__main__":
    main()
