"""Commands of the operator and of the treasury: signed, written into a shard's input, and answered by it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.console import CommandError, running_settings
from cli.inquiries import ask, command_waiter, connect
from protocol import streams
from protocol.codec import OLDEST_FORMAT, encode_commands
from protocol.commands import ConfigureShard, SignedBody
from protocol.configuration import MarketConfig, OperatorKey, Role, ShardConfig
from protocol.market import ACCOUNT_SLOTS, assets_of
from protocol.replies import BalancesQuery, ConfigQuery, ConfigReply, FundsReply, Refused, Reply
from protocol.signing import sign
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD
from protocol.units import AccountId, AssetUnits, DecimalError, TimeMs, format_amount, parse_decimal
from runtime.operator_keys import key_name, private_key, public_half, replace_private_key, shard_key
from runtime.settings import Settings, SettingsError

_COUNTS_MS: Final = 20_000
"""So long a signature counts, and so long at most its command may wait in the shard's input."""


class OperatingError(RuntimeError):
    """A shard did not execute the command; the message says which and why."""


def tell(
    client: redis.Redis,
    settings: Settings,
    shard: int,
    role: Role,
    command: Callable[[int, str], SignedBody],
    purpose: str,
    number: int = OLDEST_FORMAT,
) -> Reply:
    """Sign `command` (request id, reply channel) with the key of `role`; return a shard's answer to it.

    `what` names it in errors; `number` is the format that the shard has been switched to.

    Raises:
        OperatingError: the shard refused, or did not answer.
        SettingsError: the key cannot be read.
    """
    key = private_key(settings, role)
    with command_waiter(client) as (name, replies):
        request_id = time.time_ns() // 1_000
        deadline = TimeMs(_entry_ms(client, shard) + _COUNTS_MS)
        signed = sign(
            key, key_name(role, public_half(key)), shard, deadline, command(request_id, name), number
        )
        frame = encode_commands([signed], time.time_ns() // 1_000, number)
        client.xadd(streams.commands(shard), {COMMANDS_FIELD: frame})
        for reply in replies():
            if getattr(reply, "request_id", None) != request_id:
                continue
            if isinstance(reply, Refused):
                raise OperatingError(f"shard {shard} refuses to {purpose}: {reply.reason}")
            return reply
    raise OperatingError(f"shard {shard} did not answer, so it is not known yet whether it did {purpose}")


def _entry_ms(client: redis.Redis, shard: int) -> int:
    """Return the time of the next entry of a shard's input, with which deadlines are compared.

    See docs/decisions/0025. After Redis's clock was ahead that is the time of the last entry, until the clock
    has caught up.
    """
    seconds, microseconds = client.time()
    newest: Any = client.xrevrange(streams.commands(shard), count=1)
    last_ms = StreamId.parse(newest[0][0]).ms if newest else 0
    return max(seconds * 1_000 + microseconds // 1_000, last_ms)


class Operator:
    """Tells running shards what an operator or the treasury wants, and asks how they are configured."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client, self.settings = client, settings
        replies = self._configs()
        self.configs = {shard: config for shard, (config, _) in replies.items()}
        """Shard -> how it is configured."""
        self._assets = assets_of(config.market for _, markets in replies.values() for config in markets)

    def tell(self, shard: int, role: Role, command: Callable[[int, str], SignedBody], purpose: str) -> Reply:
        """Sign a command with the key of `role`, give it to a shard, and return its answer.

        Raises:
            OperatingError: the shard refused it, or did not answer.
        """
        return tell(self._client, self.settings, shard, role, command, purpose, self.configs[shard].format)

    def shard_of(self, account_id: int) -> int:
        """Return the shard that keeps an account, as the shards themselves say."""
        return self.configs[0].slots[account_id % ACCOUNT_SLOTS] if self.configs[0].slots else 0

    def funds(self, account_id: int) -> FundsReply:
        """Return an account's funds and limits.

        Raises:
            OperatingError: its shard does not answer.
        """
        shard = self.shard_of(account_id)
        replies = ask(
            self._client, [shard], lambda number, waiter: BalancesQuery(number, waiter, AccountId(account_id))
        )
        reply = replies.get(shard)
        if not isinstance(reply, FundsReply):
            raise OperatingError(f"shard {shard} does not answer; `exchange shards` says how it stands")
        return reply

    def change_keys(self, change: Callable[[tuple[OperatorKey, ...]], tuple[OperatorKey, ...]]) -> None:
        """Replace the keys of each shard by the result of `change`, where that differs.

        Raises:
            OperatingError: a shard refused, or did not answer; the shards before it have changed.
        """
        for shard, current in self.configs.items():
            config = msgspec.structs.replace(current, keys=change(current.keys), version=current.version + 1)
            if config.keys == current.keys:
                continue

            def command(request_id: int, reply_to: str, config: ShardConfig = config) -> ConfigureShard:
                return ConfigureShard(request_id, reply_to, config)

            self.tell(shard, Role.OPERATOR, command, "take other keys")
            self.configs[shard] = config

    def use(self, role: Role, private: Ed25519PrivateKey) -> None:
        """Sign with another key of a role from now on; it replaces the one in the data folder."""
        replace_private_key(self.settings, role, private)

    def amount(self, text: str, asset: str) -> AssetUnits:
        """Return an amount that was written as a decimal, in the asset's units.

        Raises:
            OperatingError: it is no amount, has more decimals than the asset, or no market has the asset.
        """
        try:
            return AssetUnits(parse_decimal(text, self._scale(asset)))
        except DecimalError as error:
            raise OperatingError(f"{asset}: {error}") from error

    def shown(self, amount: int, asset: str) -> str:
        """Return an amount in units as a decimal of the asset.

        Raises:
            OperatingError: no market has the asset.
        """
        return format_amount(amount, self._scale(asset))

    def _scale(self, asset: str) -> int:
        if asset not in self._assets:
            raise OperatingError(f"there is no asset {asset}; there are: {', '.join(sorted(self._assets))}")
        return self._assets[asset].scale

    def _configs(self) -> dict[int, tuple[ShardConfig, tuple[MarketConfig, ...]]]:
        shards = range(self.settings.shard_count)
        replies = ask(self._client, shards, ConfigQuery)
        configs = {}
        for shard in shards:
            reply = replies.get(shard)
            if not isinstance(reply, ConfigReply) or reply.shard is None:
                raise OperatingError(f"shard {shard} does not answer; `exchange shards` says how it stands")
            configs[shard] = (reply.shard, reply.markets)
        return configs


def rotate_key(operator: Operator, role: Role, public_key: bytes | None = None, *, keep: bool = False) -> str:
    """Give every shard a new key of a role, and revoke the old ones unless `keep`; return its name.

    Without a `public_key` a pair is made, whose private half replaces that in the data folder once every
    shard takes it. Who is interrupted repeats it: at every moment some key of the role counts at every shard.

    Raises:
        OperatingError: a shard refused, or did not answer.
    """
    new = Ed25519PrivateKey.generate() if public_key is None else None
    public = public_half(new) if new is not None else public_key or b""
    name = key_name(role, public)
    old = {key.name: key for config in operator.configs.values() for key in config.keys if key.role is role}
    added = shard_key(operator.settings, role, public)
    if old:
        # Limits were perhaps changed since the settings gave them.
        added = msgspec.structs.replace(added, limits=next(iter(old.values())).limits)
    operator.change_keys(lambda current: (*(key for key in current if key.name != name), added))
    if new is not None:
        operator.use(role, new)
    if not keep:
        operator.change_keys(
            lambda current: tuple(key for key in current if key.name == name or key.role is not role)
        )
    return name


@contextmanager
def operating() -> Iterator[Operator]:
    """Yield an operator of the running exchange; an error ends the command with a message."""
    settings = running_settings()
    try:
        with connect(settings) as client:
            yield Operator(client, settings)
    except (OperatingError, SettingsError) as error:
        raise CommandError(str(error)) from error
    except redis.RedisError as error:
        raise CommandError(f"Redis does not answer ({error}); is the exchange running?") from error
