"""All money of all shards at one moment, compared with deposits minus withdrawals.

Each shard answers with its own sums at the end of a batch, without reading its accounts; every snapshot's
process checks these. The settlements between shards cancel out only if no message is in transit: if each
shard has received, by its answer, as many as the others had sent by theirs. The queries are repeated until
that is so.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import psycopg
import redis

from cli.inquiries import audit, connect
from cli.listed_markets import listing_of
from persist.rows import EXTERNAL_ACCOUNT, FEES_ACCOUNT
from protocol import streams
from protocol.positions import ShardPosition
from protocol.replies import AuditReply
from protocol.stream_id import STREAM_START, StreamId
from protocol.units import SCALE_MAX, format_amount
from runtime.settings import Settings

_Connection = psycopg.Connection[tuple[Any, ...]]

ASK_EVERY_S = 0.02
LEDGER_TIMEOUT_S = 10.0

# The ledger's sums over the events up to a shard's position. Ids are compared as numbers.
_LEDGER = """
SELECT asset, account_id, sum(amount)::numeric FROM ledger_entries
WHERE shard = %s AND account_id IN (%s, %s)
  AND (split_part(stream_id, '-', 1)::bigint, split_part(stream_id, '-', 2)::numeric) <= (%s, %s)
GROUP BY asset, account_id
"""


class NoConsistentCutError(RuntimeError):
    """The shards could not be read at one moment; the message says why and what to do."""


class AssetAudit(msgspec.Struct, frozen=True):
    """The sums of one asset over all shards, in its units."""

    asset: str
    available: int
    held: int
    fees: int
    deposited: int
    withdrawn: int
    settled: int
    """Added by settlements minus taken by them; 0 if nothing is in transit."""

    def difference(self) -> int:
        """Return available + held + fees - (deposited - withdrawn), in units; 0 if all money adds up."""
        return self.available + self.held + self.fees - self.deposited + self.withdrawn


class ShardAudit(msgspec.Struct, frozen=True):
    """One shard's own books, and how the database's ledger has them at the same position."""

    shard: int
    position: str
    command_count: int
    digest: str
    rows: tuple[tuple[str, int, int, int, int, int, int], ...]
    ledger_is_same: bool | None = None
    """None: not compared, `ledger_note` says why."""
    ledger_note: str = ""

    def problems(self, scales: Mapping[str, int]) -> list[str]:
        """Return the errors in this shard's sums, one sentence each."""
        lines = []
        for asset, available, held, fees, deposited, withdrawn, settled in self.rows:
            difference = available + held + fees - deposited + withdrawn - settled
            if difference:
                lines.append(
                    f"shard {self.shard}, {asset}: {format_units(difference, scales[asset])} against its own "
                    f"books (available {available} + held {held} + fees {fees}; deposited {deposited} - "
                    f"withdrawn {withdrawn} + settled {settled})"
                )
        if self.ledger_is_same is False:
            lines.append(f"shard {self.shard}: the database's ledger differs: {self.ledger_note}")
        return lines


class ExchangeAudit(msgspec.Struct, frozen=True):
    """The audits of all shards, read while no message was on its way between them."""

    assets: list[AssetAudit]
    shards: list[ShardAudit]
    scales: dict[str, int]
    """How many decimals each asset's units are."""

    def problems(self) -> list[str]:
        """Return one sentence for each sum that is wrong; empty if all money adds up."""
        lines = [problem for shard in self.shards for problem in shard.problems(self.scales)]
        for asset in self.assets:
            scale = self.scales[asset.asset]
            if asset.settled:
                lines.append(
                    f"{asset.asset}: the settlements of all shards do not cancel out: "
                    f"{format_units(asset.settled, scale)} was received without being paid"
                )
            if asset.difference() and asset.difference() != asset.settled:
                lines.append(
                    f"{asset.asset}: {format_units(asset.difference(), scale)} against deposits - withdrawals"
                )
        return lines


def format_units(units: int, scale: int) -> str:
    """Return an amount as a signed decimal, followed by its units: `+0.5 (+50000000 units)`."""
    return f"{'-' if units < 0 else '+'}{format_amount(abs(units), scale)} ({units:+d} units)"


def is_consistent(replies: dict[int, AuditReply]) -> bool:
    """Return whether in these answers no message was on its way from one shard to another."""
    sent = {(source, target): count for source, reply in replies.items() for target, count in reply.sent}
    received = {
        (source, target): count for target, reply in replies.items() for source, count in reply.received
    }
    return sent == received


def add_up(replies: dict[int, AuditReply]) -> list[AssetAudit]:
    """Return the sums over all shards, by asset."""
    sums: dict[str, list[int]] = {}
    for reply in replies.values():
        for asset, *amounts in reply.rows:
            sums[asset] = [
                total + amount for total, amount in zip(sums.get(asset, [0] * 6), amounts, strict=True)
            ]
    return [AssetAudit(asset, *amounts) for asset, amounts in sums.items()]


def audit_exchange(settings: Settings, timeout_s: float, *, with_database: bool) -> ExchangeAudit:
    """Return the audit of a running exchange.

    Raises:
        NoConsistentCutError: a shard does not answer, or there was mail between the shards all the time.
        redis.RedisError, psycopg.Error: a server does not answer.
    """
    replies = _consistent_replies(settings, timeout_s)
    shards = [
        ShardAudit(shard, reply.position, reply.command_count, reply.digest, reply.rows)
        for shard, reply in sorted(replies.items())
    ]
    sums, listed_assets = add_up(replies), listing_of(settings).known.by_asset
    # A shard has money only of assets that a market of the listing has, unless that cannot be read.
    scales = {
        asset_sum.asset: listed_assets[asset_sum.asset].scale
        if asset_sum.asset in listed_assets
        else SCALE_MAX
        for asset_sum in sums
    }
    if with_database:
        with (
            connect(settings) as client,
            psycopg.connect(settings.resolved_database_url(), autocommit=True) as connection,
        ):
            shards = [_with_ledger(connection, client, shard, scales) for shard in shards]
    return ExchangeAudit(sums, shards, scales)


def _consistent_replies(settings: Settings, timeout_s: float) -> dict[int, AuditReply]:
    shards = list(range(settings.shard_count))
    deadline = time.monotonic() + timeout_s
    with connect(settings) as client:
        while True:
            replies = audit(client, shards)
            if len(replies) == len(shards) and is_consistent(replies):
                return replies
            if time.monotonic() > deadline:
                silent = ", ".join(str(shard) for shard in shards if shard not in replies)
                raise NoConsistentCutError(
                    f"Shard {silent} does not answer; `exchange shards` says why."
                    if silent
                    else (
                        f"Messages between shards were pending at every check for {timeout_s:g} s; try "
                        "--timeout, or at a quieter time."
                    )
                )
            time.sleep(ASK_EVERY_S)


def _with_ledger(
    connection: _Connection, client: redis.Redis, shard: ShardAudit, scales: Mapping[str, int]
) -> ShardAudit:
    """Compare deposits, withdrawals and fees with the ledger, once it has the events up to the position."""
    bound = _last_event(client, shard)
    if (reason := _not_caught_up(connection, bound, shard)) is not None:
        return msgspec.structs.replace(shard, ledger_note=reason)
    dead = connection.execute("SELECT count(*) FROM dead_events WHERE shard = %s", (shard.shard,)).fetchone()
    last = bound or StreamId.parse(shard.position)
    rows = connection.execute(_LEDGER, (shard.shard, FEES_ACCOUNT, EXTERNAL_ACCOUNT, *last)).fetchall()
    ledger = {(str(asset), account_id): int(str(amount)) for asset, account_id, amount in rows}
    differences = []
    for asset, _, _, fees, deposited, withdrawn, _ in shard.rows:
        for name, own, theirs in (
            ("deposits - withdrawals", deposited - withdrawn, -ledger.get((asset, EXTERNAL_ACCOUNT), 0)),
            ("fees", fees, ledger.get((asset, FEES_ACCOUNT), 0)),
        ):
            if own != theirs:
                amount = format_units(theirs - own, scales[asset])
                differences.append(
                    f"{name} of {asset} are {own} units in the shard, {theirs} in the database: {amount}"
                )
    note = "; ".join(differences)
    if note and dead and dead[0]:
        note += f"; {dead[0]} event entries are in dead_events: `exchange dead`"
    return msgspec.structs.replace(shard, ledger_is_same=not differences, ledger_note=note)


def _last_event(client: redis.Redis, shard: ShardAudit) -> StreamId | None:
    """Return the id of the last event entry up to the shard's position; None: it was trimmed."""
    events = streams.events(shard.shard)
    with client.pipeline() as pipeline:
        pipeline.get(streams.position(shard.shard))
        # While nothing came after it, the last one of all: behind garbage it may have a later id than the
        # position.
        pipeline.xrevrange(events, count=1)
        pipeline.xrevrange(events, max=shard.position, count=1)
        current, newest, upto = pipeline.execute()
    is_last = current is not None and str(ShardPosition.parse(current).stream_id) == shard.position
    chosen = newest if is_last else upto
    return StreamId.parse(chosen[0][0]) if chosen else None


def _not_caught_up(connection: _Connection, bound: StreamId | None, shard: ShardAudit) -> str | None:
    """Wait until the ledger has the events up to `bound`; return why it does not get them, or None."""
    if bound is None:
        return None  # events go only when the database has them
    deadline = time.monotonic() + LEDGER_TIMEOUT_S
    while True:
        row = connection.execute(
            "SELECT last_id, error FROM ingest WHERE shard = %s", (shard.shard,)
        ).fetchone()
        stored, error = (str(row[0]), str(row[1])) if row is not None else (str(STREAM_START), "")
        if StreamId.parse(stored) >= bound:
            return None
        if error:
            return f"it has stopped: {error}"
        if time.monotonic() > deadline:
            return f"it is behind, at {stored}"
        time.sleep(ASK_EVERY_S)
