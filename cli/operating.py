"""Commands of the operator and of the treasury: signed, written into a shard's input, and answered by it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import redis

from cli.console import CommandError, running_settings
from cli.probes import ask, command_waiter, connect
from protocol import streams
from protocol.codec import encode_commands
from protocol.commands import SignedBody
from protocol.configuration import MarketConfig, Role, ShardConfig
from protocol.market import ACCOUNT_SLOTS, assets_of
from protocol.replies import BalancesQuery, ConfigQuery, ConfigReply, FundsReply, Refused, Reply
from protocol.signing import sign
from protocol.streams import COMMANDS_FIELD
from protocol.units import AccountId, AssetUnits, DecimalError, TimeMs, format_amount, parse_decimal
from runtime.operator_keys import key_name, private_key, public_half
from runtime.settings import Settings, SettingsError

_COUNTS_MS: Final = 20_000
"""So long a signature counts, and so long at most its command may wait in the shard's input."""


class OperatingError(RuntimeError):
    """A shard did not do it; the message says which and why."""


def tell(
    client: redis.Redis,
    settings: Settings,
    shard: int,
    role: Role,
    command: Callable[[int, str], SignedBody],
    what: str,
) -> Reply:
    """Sign `command` (request id, reply channel) with the key of `role`, give it to a shard, and return its answer.

    `what` names it in errors.

    Raises:
        OperatingError: the shard refused, or did not answer.
        SettingsError: the key cannot be read.
    """
    key = private_key(settings, role)
    with command_waiter(client) as (name, replies):
        request_id = time.time_ns() // 1_000
        seconds, microseconds = client.time()
        deadline = TimeMs(seconds * 1_000 + microseconds // 1_000 + _COUNTS_MS)
        signed = sign(key, key_name(role, public_half(key)), shard, deadline, command(request_id, name))
        frame = encode_commands([signed], time.time_ns() // 1_000)
        client.xadd(streams.commands(shard), {COMMANDS_FIELD: frame})
        for reply in replies():
            if getattr(reply, "request_id", None) != request_id:
                continue
            if isinstance(reply, Refused):
                raise OperatingError(f"shard {shard} refuses to {what}: {reply.reason}")
            return reply
    raise OperatingError(f"shard {shard} did not answer; nobody knows yet whether it did {what}")


class Operator:
    """Tells running shards what an operator or the treasury wants, and asks how they are configured."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client, self._settings = client, settings
        replies = self._configs()
        self.configs = {shard: config for shard, (config, _) in replies.items()}
        """Shard -> how it is configured."""
        self._assets = assets_of(each.market for _, markets in replies.values() for each in markets)

    def tell(self, shard: int, role: Role, command: Callable[[int, str], SignedBody], what: str) -> Reply:
        """See `tell`."""
        return tell(self._client, self._settings, shard, role, command, what)

    def shard_of(self, account_id: int) -> int:
        """Return the shard that keeps an account, as the shards themselves say."""
        return self.configs[0].slots[account_id % ACCOUNT_SLOTS] if self.configs[0].slots else 0

    def funds(self, account_id: int) -> FundsReply:
        """Return an account's funds and limits."""
        shard = self.shard_of(account_id)
        replies = ask(
            self._client, [shard], lambda number, waiter: BalancesQuery(number, waiter, AccountId(account_id))
        )
        reply = replies.get(shard)
        if not isinstance(reply, FundsReply):
            raise OperatingError(f"shard {shard} does not answer; `exchange shards` says how it stands")
        return reply

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
        """Return units of an asset as a decimal."""
        return format_amount(amount, self._scale(asset))

    def _scale(self, asset: str) -> int:
        if asset not in self._assets:
            raise OperatingError(f"there is no asset {asset}; there are: {', '.join(sorted(self._assets))}")
        return self._assets[asset].scale

    def _configs(self) -> dict[int, tuple[ShardConfig, tuple[MarketConfig, ...]]]:
        shards = range(self._settings.shard_count)
        replies = ask(self._client, shards, ConfigQuery)
        found = {}
        for shard in shards:
            reply = replies.get(shard)
            if not isinstance(reply, ConfigReply) or reply.shard is None:
                raise OperatingError(f"shard {shard} does not answer; `exchange shards` says how it stands")
            found[shard] = (reply.shard, reply.markets)
        return found


@contextmanager
def operating() -> Iterator[Operator]:
    """Yield an operator of the running exchange; what goes wrong ends the command with a message."""
    settings = running_settings()
    try:
        with connect(settings) as client:
            yield Operator(client, settings)
    except (OperatingError, SettingsError) as error:
        raise CommandError(str(error)) from error
    except redis.RedisError as error:
        raise CommandError(f"Redis does not answer ({error}); is the exchange running?") from error
