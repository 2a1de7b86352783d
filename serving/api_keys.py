"""API keys for authentication: a small cache in this process, filled from Redis, and from the database where Redis has none.

A revoked key is refused as soon as its entry here is older than the few seconds it may live. Keys that do not exist are
remembered too, so that guessing does not reach the database each time.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from functions.api_key_record import KeyKind, decode_record, encode_record, load_record
from functions.errors import ApiError
from functions.ports import Database, KeyValues
from protocol import streams
from serving.auth import Signer, unknown_key, verifier_of
from serving.secret_box import SecretBox

_TTL_S: Final = 3.0
_STALE_MAX_S: Final = 600.0
"""How long an entry may still serve while neither Redis nor the database can be asked."""
_ENTRIES_MAX: Final = 10_000

_log = structlog.get_logger()


class ApiKeys:
    """Who each API key stands for."""

    def __init__(
        self, key_values: KeyValues, database: Database, box: SecretBox, monotonic: Callable[[], float]
    ) -> None:
        self._key_values = key_values
        self._database = database
        self._box = box
        self._monotonic = monotonic
        self._entries: dict[str, tuple[float, Signer | None]] = {}

    def cached(self, key: str) -> Signer | None:
        """Return the signer if it is known and fresh."""
        entry = self._entries.get(key)
        if entry is None or self._monotonic() - entry[0] > _TTL_S:
            return None
        return entry[1]

    async def signer(self, key: str) -> Signer:
        """Return the signer.

        Raises:
            ApiError: -2015 there is no such key; unavailable when it cannot be looked up.
        """
        now = self._monotonic()
        entry = self._entries.get(key)
        if entry is not None and now - entry[0] <= _TTL_S:
            signer = entry[1]
        else:
            try:
                signer = await self._look_up(key)
            except ApiError:
                if entry is None or entry[1] is None or now - entry[0] > _STALE_MAX_S:
                    raise
                signer = entry[1]
            else:
                self._remember(key, now, signer)
        if signer is None:
            raise unknown_key()
        return signer

    def _remember(self, key: str, now: float, signer: Signer | None) -> None:
        self._entries.pop(key, None)
        while len(self._entries) >= _ENTRIES_MAX:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (now, signer)

    async def _look_up(self, key: str) -> Signer | None:
        name = streams.api_key(key)
        value = await self._key_values.get(name)
        record = None
        if value is not None:
            try:
                record = decode_record(value)
            except msgspec.MsgspecError:
                _log.warning("api key read model not understood", key=key)
        if record is None:
            record = await load_record(self._database, key)
            if record is None:
                return None
            await self._key_values.put(name, encode_record(record))
        try:
            secret = self._box.open(record.secret) if record.kind is KeyKind.HMAC else record.secret
            return Signer(record.account_id, verifier_of(record.kind, secret))
        except ValueError as error:
            _log.error("api key cannot be used", key=key, error=str(error))
            return None
