"""Secrets at rest: AES-GCM under the master key, each bound to what it belongs to.

The binding is authenticated with it: a sealed secret that was copied to another key's row does not open
there.
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
"""What begins a bound secret. Those that an earlier release sealed have neither this nor a binding."""
_FILE_NAME: Final = "master.key"
_FURTHER_FILE_NAME: Final = "master.previous.key"


class SecretBox:
    """Seals and opens secrets; implements `functions.api.ports.SecretBox`."""

    def __init__(self, master_key: bytes, *further_keys: bytes) -> None:
        """Seal under the master key; open what was sealed under it, or under one of the further keys."""
        self._ciphers = tuple(map(AESGCM, (master_key, *further_keys)))

    def seal(self, secret: bytes, bound_to: str) -> bytes:
        """Return the secret encrypted and authenticated, for `bound_to` alone."""
        nonce = os.urandom(_NONCE_BYTES)
        return _BOUND + nonce + self._ciphers[0].encrypt(nonce, secret, bound_to.encode())

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """Return the secret.

        Raises:
            ValueError: it was sealed under another key or for something else, or changed since.
        """
        for cipher in self._ciphers:
            if sealed[:1] == _BOUND:
                try:
                    return _opened(cipher, sealed[1:], bound_to.encode())
                except InvalidTag:
                    pass  # an unbound one may begin so too
            try:
                return _opened(cipher, sealed, None)
            except InvalidTag:
                continue
        _log.error("a sealed secret cannot be opened", bound_to=bound_to)
        raise ValueError("sealed under another master key or for something else, or damaged")


def secret_box(settings: Settings) -> SecretBox:
    """Return the box of the settings' master key, which also opens what their further key has sealed.

    Raises:
        SettingsError: a key is not 32 bytes in base64url.
    """
    further = further_key(settings)
    return SecretBox(master_key(settings), *([further] if further is not None else []))


def _opened(cipher: AESGCM, sealed: bytes, bound_to: bytes | None) -> bytes:
    return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)


def master_key(settings: Settings) -> bytes:
    """Return the master key of the settings, or the one in the data folder, which is made when there is none.

    Raises:
        SettingsError: the key is not 32 bytes in base64url.
    """
    if settings.master_key:
        return decoded_key(settings.master_key, f"{PREFIX}MASTER_KEY")
    return key_in(settings.data_dir / _FILE_NAME)


def further_key(settings: Settings) -> bytes | None:
    """Return the key that opens secrets besides the master key, while one takes the other's place; None:
    there is none.

    Raises:
        SettingsError: it is not 32 bytes in base64url.
    """
    if settings.master_key_previous:
        return decoded_key(settings.master_key_previous, f"{PREFIX}MASTER_KEY_PREVIOUS")
    path = settings.data_dir / _FURTHER_FILE_NAME
    return None if settings.master_key or not path.exists() else key_in(path)
