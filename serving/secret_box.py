"""Secrets at rest: AES-GCM under the master key, each bound to what it belongs to.

The binding is authenticated with it: a sealed secret that was copied to another key's row does not open there.
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runtime.key_files import decoded_key, key_in
from runtime.settings import PREFIX, Settings

_NONCE_BYTES: Final = 12
_BOUND: Final = b"\x01"
"""What begins a bound secret. Those that an earlier release sealed have neither this nor a binding."""
_FILE_NAME: Final = "master.key"


class SecretBox:
    """Seals and opens secrets; implements `functions.ports.SecretBox`."""

    def __init__(self, master_key: bytes) -> None:
        self._cipher = AESGCM(master_key)

    def seal(self, secret: bytes, bound_to: str) -> bytes:
        """Return the secret encrypted and authenticated, for `bound_to` alone."""
        nonce = os.urandom(_NONCE_BYTES)
        return _BOUND + nonce + self._cipher.encrypt(nonce, secret, bound_to.encode())

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """Return the secret.

        Raises:
            ValueError: it was sealed under another key or for something else, or changed since.
        """
        if sealed[:1] == _BOUND:
            try:
                return self._opened(sealed[1:], bound_to.encode())
            except InvalidTag:
                pass  # an unbound one may begin so too
        try:
            return self._opened(sealed, None)
        except InvalidTag as error:
            raise ValueError("sealed under another master key or for something else, or damaged") from error

    def _opened(self, sealed: bytes, bound_to: bytes | None) -> bytes:
        return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)


def master_key(settings: Settings) -> bytes:
    """Return the master key of the settings, or the one in the data folder, which is made when there is none.

    Raises:
        SettingsError: the key is not 32 bytes in base64url.
    """
    if settings.master_key:
        return decoded_key(settings.master_key, f"{PREFIX}MASTER_KEY")
    return key_in(settings.data_dir / _FILE_NAME)
