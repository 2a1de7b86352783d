"""Keys that are generated once and kept in the data folder, one file each."""

import base64
import binascii
import os
import secrets
from pathlib import Path
from typing import Final

from runtime.settings import SettingsError

KEY_BYTES: Final = 32


def key_in(path: Path) -> bytes:
    """Return the key in a file; if there is no file, generate a key and create it.

    Several processes may do this at once: the key is written to a temporary file and linked into place, so
    that one process wins and all read the same, complete key.

    Raises:
        SettingsError: the file does not contain a key.
    """
    if not path.exists():
        _make(path)
    return decoded_key(path.read_text("ascii").strip(), str(path))


def decoded_key(text: str, source: str) -> bytes:
    """Return the key that `text` encodes in base64url.

    Raises:
        SettingsError: `text` is not a key; the message names the `source`.
    """
    try:
        key = base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(f"{source}: must be {KEY_BYTES} bytes in base64url")
    return key


def encoded_key(key: bytes) -> str:
    """Return a key in base64url."""
    return base64.urlsafe_b64encode(key).decode()


def replace_key(path: Path, key: bytes) -> None:
    """Replace the key in a file atomically."""
    _written_aside(path, key).replace(path)


def _written_aside(path: Path, key: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(encoded_key(key))
        file.flush()
        os.fsync(file.fileno())
    return draft


def _make(path: Path) -> None:
    draft = _written_aside(path, secrets.token_bytes(KEY_BYTES))
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        draft.unlink()
