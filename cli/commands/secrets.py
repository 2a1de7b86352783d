"""`exchange secrets`."""

import os
import secrets as random
from pathlib import Path
from typing import Final

import msgspec
import rich_click as click

from cli.console import CommandError, console
from cli.secret_files import SEED_BYTES, Family, Hosts, Rotation, secret_files

SEED_FILE: Final = "operator/seed"
ROTATIONS_FILE: Final = "operator/rotations.json"
KEPT: Final = frozenset({Family.REDIS, Family.MASTER_KEY})
"""Families of which two secrets can be taken at once."""
_FAMILY: Final = click.Choice([str(family) for family in Family])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--redis", default=Hosts().redis, show_default=True, help="HOST:PORT of Redis.")
@click.option(
    "--cache", default=Hosts().cache, show_default=True, help="HOST:PORT of the Redis of what may be lost."
)
@click.option(
    "--sentinels", default=",".join(Hosts().sentinels), show_default=True, help="HOST:PORT of each sentinel."
)
@click.option("--database", default=Hosts().database, show_default=True, help="HOST:PORT of PostgreSQL.")
@click.option(
    "--rotate", multiple=True, type=_FAMILY, help="Generate new secrets; the master key needs two rotations."
)
@click.option(
    "--forget", multiple=True, type=_FAMILY, help="Refuse the secrets from before the last rotation."
)
def secrets(
    folder: Path,
    redis: str,
    cache: str,
    sentinels: str,
    database: str,
    rotate: tuple[str, ...],
    forget: tuple[str, ...],
) -> None:
    """Create the secrets of a deployment in containers, in FOLDER, one folder per recipient.

    All secrets are derived from FOLDER/operator/seed, which is generated if missing, and
    FOLDER/operator/rotations.json: keep a copy of both. The same two files always produce the same secrets,
    so an interrupted command may be repeated with the same options. docs/how-to/rotate-secrets.md describes
    the further steps of a rotation and their order.
    """
    try:
        # Each of its files is for the recipient of its folder.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        seed = _seed(folder / SEED_FILE)
        before = _rotations(folder / ROTATIONS_FILE)
        rotations = _rotated(
            before, [Family(family) for family in rotate], [Family(family) for family in forget]
        )
        hosts = Hosts(redis, cache, tuple(sentinels.split(",")), database)
        for path, text in secret_files(seed, hosts, rotations).items():
            _write(folder / path, text)
        # Last: repeating an interrupted command must produce the same files, not those of the next step.
        if rotations != before:
            text = msgspec.json.format(msgspec.json.encode(rotations)).decode()
            _write(folder / ROTATIONS_FILE, f"{text}\n", mode=0o600)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    console.print(
        f"The secrets are in {folder}; keep a copy of {folder / SEED_FILE} and, once something was rotated, "
        f"of {folder / ROTATIONS_FILE}.",
        highlight=False,
        soft_wrap=True,
    )


def _rotations(path: Path) -> dict[Family, Rotation]:
    """Return how often each family was rotated."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[Family, Rotation]) if path.exists() else {}
    except msgspec.MsgspecError as error:
        raise CommandError(f"{path}: {error}") from error


def _rotated(
    before: dict[Family, Rotation], rotate: list[Family], forget: list[Family]
) -> dict[Family, Rotation]:
    """Return how often each family was rotated, after these are."""
    rotations = dict(before)
    for family in rotate:
        rotation = rotations.get(family, Rotation())
        if rotation.keeps_previous:
            raise CommandError(f"The last rotation of {family} is not finished: --forget {family} ends it.")
        if family is Family.MASTER_KEY and not rotation.announces_next:
            rotations[family] = Rotation(rotation.number, announces_next=True)
        else:
            rotations[family] = Rotation(rotation.number + 1, keeps_previous=family in KEPT)
    for family in forget:
        rotations[family] = Rotation(rotations.get(family, Rotation()).number)
    return rotations


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
    """Write a file atomically.

    The recipient of a folder may read its files as any user; nobody else gets the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{random.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
