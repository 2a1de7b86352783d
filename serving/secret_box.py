"""API secrets at rest: AES-GCM under the master key."""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runtime.key_files import decoded_key, key_in
from runtime.settings import PREFIX, Settings

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

    Raises:
        SettingsError: the key is not 32 bytes in base64url.
    """
    if settings.master_key:
        return decoded_key(settings.master_key, f"{PREFIX}MASTER_KEY")
    return key_in(settings.data_dir / _FILE_NAME)
