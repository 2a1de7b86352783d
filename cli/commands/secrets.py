"""`exchange secrets`."""

import os
import secrets as random
from pathlib import Path
from typing import Final

import rich_click as click

from cli.console import CommandError, console
from cli.secret_files import SEED_BYTES, Hosts, secret_files

SEED_FILE: Final = "operator/seed"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--redis", default=Hosts().redis, show_default=True, help="HOST:PORT of Redis.")
@click.option("--cache", default=Hosts().cache, show_default=True, help="HOST:PORT of the Redis of what may be lost.")
@click.option("--sentinels", default=",".join(Hosts().sentinels), show_default=True, help="HOST:PORT of each sentinel.")
@click.option("--database", default=Hosts().database, show_default=True, help="HOST:PORT of PostgreSQL.")
def secrets(folder: Path, redis: str, cache: str, sentinels: str, database: str) -> None:
    """Make the secrets of a deployment in containers, a folder below FOLDER for each who gets some.

    Everything comes of FOLDER/operator/seed, which is made when there is none: keep a copy of it. With the same seed the same
    files come out again, so this may be repeated.
    """
    try:
        seed = _seed(folder / SEED_FILE)
        hosts = Hosts(redis, cache, tuple(sentinels.split(",")), database)
        for path, text in secret_files(seed, hosts).items():
            _write(folder / path, text)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    console.print(f"The secrets are in {folder}; keep a copy of {folder / SEED_FILE}.", highlight=False, soft_wrap=True)


def _seed(path: Path) -> bytes:
    if not path.exists():
        _write(path, random.token_hex(SEED_BYTES), mode=0o600)
    text = path.read_text("ascii").strip()
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise CommandError(f"{path}: a seed is {SEED_BYTES} bytes in hexadecimal")
    return seed


def _write(path: Path, text: str, mode: int = 0o444) -> None:
    """Put a file into place, whole. Who gets a folder may read what is in it, whatever user that is; nobody else gets it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{random.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
