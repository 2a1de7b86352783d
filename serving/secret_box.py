"""API secrets at rest: AES-GCM under the master key."""

import base64
import binascii
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runtime.settings import PREFIX, Settings, SettingsError

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FILE_NAME: Final = "master.key"


class SecretBox:
    """Seals and opens secrets; implements `functions.ports.SecretBox`."""

    def __init__(self, master_key: bytes) -> None:
        self._cipher = AESGCM(master_key)

    def seal(self, secret: bytes) -> bytes:
        """Return the secret encrypted and authenticated."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, None)

    def open(self, sealed: bytes) -> bytes:
        """Return the secret.

        Raises:
            ValueError: it was sealed under another key, or changed since.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except InvalidTag as error:
            raise ValueError("sealed under another master key, or damaged") from error


def master_key(settings: Settings) -> bytes:
    """Return the master key of the settings, or the one in the data folder, which is made when there is none.

    Several processes may do this at once: the key is written aside and linked into place, so that one of them wins and all read
    the same, whole key.

    Raises:
        SettingsError: the key is not 32 bytes in base64url.
    """
    if settings.master_key:
        return _decoded(settings.master_key, f"{PREFIX}MASTER_KEY")
    path = settings.data_dir / _FILE_NAME
    if not path.exists():
        _make(path)
    return _decoded(path.read_text("ascii").strip(), str(path))


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_FILE_NAME}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)))
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def _decoded(text: str, source: str) -> bytes:
    try:
        key = base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise SettingsError(f"{source}: must be {_KEY_BYTES} bytes in base64url")
    return key
