"""Encryption of secrets at rest: AES-GCM under the master key, each bound to its owner.

The binding is authenticated: a sealed secret that is copied to another key's row cannot be opened there.
"""

import os
from typing import Final

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runtime.key_files import decoded_key, key_in
from runtime.settings import PREFIX, Settings

_log = structlog.get_logger()

_NONCE_BYTES: Final = 12
_BOUND: Final = b"\x01"
"""The prefix of a bound secret. Secrets that an earlier release sealed have neither this nor a binding."""
_FILE_NAME: Final = "master.key"
_FURTHER_FILE_NAME: Final = "master.previous.key"


class SecretBox:
    """Seals and opens secrets; implements `functions.api.ports.SecretBox`."""

    def __init__(self, master_key: bytes, *further_keys: bytes) -> None:
        """Seal with the master key; open with it or with one of the further keys."""
        self._ciphers = tuple(map(AESGCM, (master_key, *further_keys)))

    def seal(self, secret: bytes, bound_to: str) -> bytes:
        """Return the secret encrypted and authenticated, for `bound_to` alone."""
        nonce = os.urandom(_NONCE_BYTES)
        return _BOUND + nonce + self._ciphers[0].encrypt(nonce, secret, bound_to.encode())

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """Return the secret.

        Raises:
            ValueError: it was sealed with another key or for another binding, or was modified.
        """
        for cipher in self._ciphers:
            if sealed[:1] == _BOUND:
                try:
                    return _opened(cipher, sealed[1:], bound_to.encode())
                except InvalidTag:
                    pass  # an unbound one may begin like this, too
            try:
                return _opened(cipher, sealed, None)
            except InvalidTag:
                continue
        _log.error("a sealed secret cannot be opened", bound_to=bound_to)
        raise ValueError("sealed under another master key or for something else, or damaged")


def secret_box(settings: Settings) -> SecretBox:
    """Return the box of the settings' master key, which also opens secrets of the previous key.

    Raises:
        SettingsError: a key is not 32 bytes in base64url.
    """
    further = further_key(settings)
    return SecretBox(master_key(settings), *([further] if further is not None else []))


def _opened(cipher: AESGCM, sealed: bytes, bound_to: bytes | None) -> bytes:
    return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)


def master_key(settings: Settings) -> bytes:
    """Return the master key of the settings, or the one in the data folder, which is created if missing.

    Raises:
        SettingsError: the key is not 32 bytes in base64url.
    """
    if settings.master_key:
        return decoded_key(settings.master_key, f"{PREFIX}MASTER_KEY")
    return key_in(settings.data_dir / _FILE_NAME)


def further_key(settings: Settings) -> bytes | None:
    """Return the previous master key, which opens secrets during a rotation, or None.

    Raises:
        SettingsError: it is not 32 bytes in base64url.
    """
    if settings.master_key_previous:
        return decoded_key(settings.master_key_previous, f"{PREFIX}MASTER_KEY_PREVIOUS")
    path = settings.data_dir / _FURTHER_FILE_NAME
    return None if settings.master_key or not path.exists() else key_in(path)
