"""The signing keys of operators, of the treasury and of the development faucet.

On a laptop the private keys are generated once and kept in the data folder. In containers each is a secret of
the one process that needs it, and the engines get the public keys (`exchange secrets`).
"""

from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.configuration import KeyLimit, OperatorKey, Role, ShardConfig
from protocol.units import AMOUNT_UNITS_MAX, UNITS_PER_ASSET, AssetUnits
from runtime.key_files import decoded_key, encoded_key, key_in, replace_key
from runtime.settings import PREFIX, Settings, SettingsError

_FAUCET_DAILY: Final = 100_000
"""Requests of the maximum amount that a faucet may grant per day, asset and shard."""


def private_key(settings: Settings, role: Role) -> Ed25519PrivateKey:
    """Return the private key of a role: from the settings, or from the data folder, where it is generated.

    Raises:
        SettingsError: it is not 32 bytes in base64url.
    """
    name = role.name.lower()
    text: str = getattr(settings, f"{name}_key")
    seed = (
        decoded_key(text, f"{PREFIX}{name.upper()}_KEY")
        if text
        else key_in(settings.data_dir / f"{name}.key")
    )
    return Ed25519PrivateKey.from_private_bytes(seed)


def replace_private_key(settings: Settings, role: Role, key: Ed25519PrivateKey) -> None:
    """Replace a role's private key in the data folder."""
    replace_key(settings.data_dir / f"{role.name.lower()}.key", key.private_bytes_raw())


def key_name(role: Role, public: bytes) -> str:
    """Return the name of a key in the shards: its role, and the beginning of its public key."""
    return f"{role.name.lower()}-{public.hex()[:8]}"


def public_keys(settings: Settings) -> tuple[OperatorKey, ...]:
    """Return the keys of a new exchange: the public keys of the settings, or those of the data folder.

    Raises:
        SettingsError: EXCHANGE_OPERATOR_KEYS is not `role:key,…`, with the key's 32 bytes in base64url, or
            names no operator.
    """
    if not settings.operator_keys:
        roles = [role for role in Role if role is not Role.FAUCET or settings.has_faucet()]
        return tuple(shard_key(settings, role, public_half(private_key(settings, role))) for role in roles)
    keys = []
    for text in settings.operator_keys.split(","):
        name, _, key = text.strip().partition(":")
        try:
            role = Role[name.upper()]
        except KeyError:
            raise SettingsError(f"{PREFIX}OPERATOR_KEYS: {name!r} is no role; there are {_roles()}") from None
        public = decoded_key(key, f"{PREFIX}OPERATOR_KEYS: {name}")
        if role is not Role.FAUCET or settings.has_faucet():
            keys.append(shard_key(settings, role, public))
    if len({key.name for key in keys}) != len(keys) or not any(key.role is Role.OPERATOR for key in keys):
        raise SettingsError(f"{PREFIX}OPERATOR_KEYS: one key per role, and an operator's among them")
    return tuple(keys)


def public_half(private: Ed25519PrivateKey) -> bytes:
    """Return the 32 bytes of the public key."""
    return private.public_key().public_bytes_raw()


def public_text(keys: Mapping[Role, bytes]) -> str:
    """Return EXCHANGE_OPERATOR_KEYS for these private keys."""
    halves = {role: public_half(Ed25519PrivateKey.from_private_bytes(key)) for role, key in keys.items()}
    return ",".join(f"{role.name.lower()}:{encoded_key(public)}" for role, public in halves.items())


def first_config(settings: Settings) -> ShardConfig:
    """Return the first configuration of a new shard.

    Raises:
        SettingsError: the keys are invalid.
    """
    return ShardConfig(
        windows=settings.windows(),
        keys=public_keys(settings),
        open_orders_max=settings.open_orders_max,
        in_flight_max=settings.in_flight_max,
    )


def shard_key(settings: Settings, role: Role, public: bytes) -> OperatorKey:
    """Return a key as shards are configured with it; a faucet's with the limits of the settings."""
    limits: tuple[KeyLimit, ...] = ()
    if role is Role.FAUCET:
        # For every asset, whatever its scale: see `KeyLimit.asset`.
        most = min(settings.faucet_amount_max * UNITS_PER_ASSET, AMOUNT_UNITS_MAX)
        limits = (KeyLimit("", AssetUnits(most), AssetUnits(min(most * _FAUCET_DAILY, AMOUNT_UNITS_MAX))),)
    return OperatorKey(key_name(role, public), role, public, limits)


def _roles() -> str:
    return ", ".join(role.name.lower() for role in Role)
