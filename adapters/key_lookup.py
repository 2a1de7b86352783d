"""The signer of each API key: a small cache, filled from Redis, or else from the database.

The cache is valid while the list of revocations was read within the last second (adapters/revocations.py); if
the list is unreachable, the database is queried each time. Unknown keys are cached, too, so that guessing
does not reach the database each time.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from adapters.auth import Signer, verifier_of
from adapters.database import Database
from adapters.revocations import RevocationWatch
from adapters.secret_box import SecretBox
from functions.api.errors import ApiError, unavailable
from functions.api.key_permissions import network_of, not_permitted
from functions.api.ports import KeyValues
from functions.users.api_key_record import KEPT_S, ApiKeyRecord, KeyKind, decode_record, encode_record
from functions.users.revocations import of_key, of_session
from protocol import streams
from protocol.units import AccountId
from runtime.tasks import end_tasks

_TTL_S: Final = 60.0
_UNKNOWN_TTL_S: Final = 3.0
"""How long an unknown key is cached: it may be created meanwhile."""
_LOOKUP_MAX_S: Final = 30.0
"""A slower lookup is discarded: the key may have been revoked, and the revocation forgotten, since."""
_FRESHEN_S: Final = 1.0
_ENTRIES_MAX: Final = 10_000
_USES_EVERY_S: Final = 15.0
_RECORD: Final = """
    SELECT account_id, kind, secret, scopes, networks::text[],
    coalesce((extract(epoch from expires_at) * 1000)::bigint, 0)
    FROM api_keys WHERE key = %(key)s AND revoked_at IS NULL
"""
_USES: Final = """
    UPDATE api_keys SET last_used_at = greatest(coalesce(last_used_at, used.at), used.at)
    FROM (SELECT unnest(%(keys)s::text[]) AS key,
    to_timestamp(unnest(%(times)s::double precision[])) AS at) AS used
    WHERE api_keys.key = used.key
"""

_log = structlog.get_logger()


class Signers:
    """The signers of API keys."""

    def __init__(
        self,
        key_values: KeyValues,
        database: Database,
        box: SecretBox,
        revocations: RevocationWatch,
        monotonic: Callable[[], float],
    ) -> None:
        self._key_values = key_values
        self._database = database
        self._box = box
        self._revocations = revocations
        self._monotonic = monotonic
        self._entries: dict[str, tuple[float, Signer | None]] = {}
        self._used: dict[str, float] = {}
        """The last use of each key (s since the epoch), if the database does not have it yet."""
        self._noting = asyncio.get_running_loop().create_task(self._note_uses())
        revocations.call_when_lost(self._entries.clear)

    async def close(self) -> None:
        """Stop after recording all uses, if the database is reachable."""
        await end_tasks([self._noting])
        await self._write_uses()

    def cached(self, key: str) -> Signer | None:
        """Return the signer if it is cached, fresh, and not revoked."""
        entry = self._entries.get(key)
        if entry is None or self._monotonic() - entry[0] > _TTL_S:
            return None
        signer = entry[1]
        if (
            signer is None
            or not self._revocations.is_fresh()
            or self._revocations.is_revoked(signer.credential)
        ):
            return None
        return signer

    async def signer(self, key: str) -> Signer:
        """Return the signer.

        Raises:
            ApiError: -2015 there is no such key; unavailable if it cannot be looked up.
        """
        if not await self._revocations.freshened(_FRESHEN_S):
            signer = await self._from_database(key)
        elif (entry := self._entries.get(key)) is not None and self._monotonic() - entry[0] <= (
            _UNKNOWN_TTL_S if entry[1] is None else _TTL_S
        ):
            signer = entry[1]
        else:
            start_s = self._monotonic()
            signer = await self._look_up(key)
            self._remember(key, start_s, signer)
        if signer is None or self._revocations.is_revoked(signer.credential):
            raise not_permitted()
        return signer

    def note_use(self, key: str, now_us: int) -> None:
        """Record a use of the key."""
        self._used[key] = now_us / 1_000_000

    def _remember(self, key: str, now: float, signer: Signer | None) -> None:
        self._entries.pop(key, None)
        while len(self._entries) >= _ENTRIES_MAX:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (now, signer)

    async def _look_up(self, key: str) -> Signer | None:
        start_s = self._monotonic()
        name = streams.api_key(key)
        value = await self._key_values.get(name)
        record = None
        if value is not None:
            try:
                record = decode_record(value)
            except msgspec.MsgspecError:
                _log.warning("api key read model not understood", key=key)
        if record is None:
            record = await self._load(key)
            if record is None:
                return None
            if self._monotonic() - start_s > _LOOKUP_MAX_S:
                raise unavailable()
            await self._key_values.put(name, encode_record(record), KEPT_S)
        return self._signer_of(key, record)

    async def _from_database(self, key: str) -> Signer | None:
        """Query the database, which is authoritative: revocations begin there."""
        record = await self._load(key)
        return None if record is None else self._signer_of(key, record)

    async def _load(self, key: str) -> ApiKeyRecord | None:
        """Return an unrevoked key from the database."""
        rows = await self._database.fetch(_RECORD, {"key": key})
        if not rows:
            return None
        account_id, kind, secret, scopes, networks, expires_ms = rows[0]
        return ApiKeyRecord(
            AccountId(account_id),
            KeyKind(kind),
            bytes(secret),
            tuple(scopes),
            tuple(networks),
            expires_ms,
            stands_until_ms=expires_ms,
        )

    def _signer_of(self, key: str, record: ApiKeyRecord) -> Signer | None:
        try:
            secret = self._box.open(record.secret, key) if record.kind is KeyKind.HMAC else record.secret
            return Signer(
                record.account_id,
                verifier_of(record.kind, secret),
                of_session(record.session_id) if record.session_id else of_key(key),
                frozenset(record.scopes),
                tuple(network_of(text) for text in record.networks),
                record.expires_ms,
                record.stands_until_ms,
                is_ticket=bool(record.session_id),
            )
        except ValueError as error:
            _log.error("api key cannot be used", key=key, error=str(error))
            return None

    async def _note_uses(self) -> None:
        while True:
            await asyncio.sleep(_USES_EVERY_S)
            await self._write_uses()

    async def _write_uses(self) -> None:
        used, self._used = self._used, {}
        if used:
            try:
                await self._database.fetch(_USES, {"keys": list(used), "times": list(used.values())})
            except ApiError as error:
                _log.debug("uses of api keys not noted", error=error.message)
                self._used = {**used, **self._used}
