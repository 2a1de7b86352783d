"""GET /api/v1/statement: the ledger of an account, entry by entry, with the balance after each."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from functions.account.ledger_position import POSITION_PATTERN, Position
from functions.api.errors import invalid_parameter, unavailable
from functions.api.function import (
    ASSET,
    END_TIME,
    START_TIME,
    Answered,
    Function,
    Group,
    Parameter,
    Security,
    Written,
    limit_parameter,
)
from functions.api.market_choice import asset_wanted
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.api.shapes import Amount, Change, Time
from functions.repositories.ledger import LedgerEntry
from protocol.market import MarketMap
from protocol.units import TimeMs

_LIMIT_DEFAULT, _LIMIT_MAX = 500, 1000
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
"""Characters that begin a formula in spreadsheets: https://owasp.org/www-community/attacks/CSV_Injection"""
_CSV: Final = "text/csv"
_COLUMNS: Final = ("position", "time", "asset", "kind", "amount", "balance", "reference")
_OPENING, _CLOSING = "opening", "closing"


class StatedBalanceShape(msgspec.Struct, gc=False):
    """The balance of an asset, free and locked together, before the period and after it."""

    asset: str
    opening: Amount
    closing: Amount


class EntryShape(msgspec.Struct, gc=False):
    """One entry: the amount of an asset gained (or spent: negative), and the balance after it.

    The balance is free and locked together.
    """

    position: str
    time: Time
    asset: str
    kind: str
    """deposit, withdrawal, trade (after the fee), or loss: an entry that a restore has reversed."""
    amount: Change
    balance: Amount
    reference: str
    """The transfer's id, or market:trade."""


class StatementShape(msgspec.Struct, rename="camel"):
    """An account's ledger in a period, or a part of it."""

    start_time: int | None
    end_time: int | None
    """As requested; null: no bound."""
    kept_since: int
    """Entries from this time on are kept: 0, because retention does not affect the ledger.

    The trades and transfers to which references refer may be gone.
    """
    balances: list[StatedBalanceShape]
    """For each asset that the account had up to the end of the period.

    Opening balance + all amounts of the period = closing balance.
    """
    entries: list[EntryShape]
    """Oldest first."""
    has_more: bool
    """Whether the period has more entries: repeat the request with `after`, the last entry's position."""


async def get_statement(ports: Ports, call: Call) -> StatementShape | Answered[Written]:
    """Return the ledger of the period, oldest first, as JSON or CSV, with the balances before and after it.

    The ledger is kept forever. A CSV file has a row of kind `opening` for each asset before the first entry
    of the period, and one of kind `closing` after the last; if closing rows are missing, more entries follow.
    """
    parameters, markets = call.parameters, ports.known_markets
    asset = asset_wanted(ports, parameters, "asset")
    if asset is None and markets.unknown_shards:
        raise unavailable()  # the account may have an asset of an unknown shard
    start, end = parameters.time_range()
    limit = parameters.limit(_LIMIT_DEFAULT, _LIMIT_MAX)
    writes_csv = parameters.choice(
        "format", {"json": False, "csv": True}, lambda: invalid_parameter("format")
    )
    after = parameters.optional("after")
    opening = first = Position(start or TimeMs(0))
    if after is not None:
        first = max(opening, Position.after(after))
    # The ledger is in the database: without this, a client would miss the order that was just answered.
    await ports.ingestion.catch_up(ports.markets.shard_of_account(call.account_id))
    page = await ports.ledger.page(
        call.account_id,
        markets.assets if asset is None else [asset],
        start=opening.time,
        first=first,
        end=end,
        # One more than is returned: it tells whether more follow, without counting them.
        limit=limit + 1,
    )
    has_more = len(page.entries) > limit
    entries = entry_shapes(page.before, page.entries[:limit], markets, call.time_scale)
    balances = [
        StatedBalanceShape(
            name,
            markets.format_amount(page.opening.get(name, 0), name),
            markets.format_amount(closing, name),
        )
        for name, closing in sorted(page.closing.items())
    ]
    if writes_csv:
        text = csv_of(entries, balances, is_first=first == opening, is_last=not has_more)
        return _download(text, f"statement-{call.account_id}{f'-{after}' if after else ''}.csv")
    scale = call.time_scale
    return StatementShape(
        start_time=None if start is None else start * scale,
        end_time=None if end is None else end * scale,
        kept_since=0,
        balances=balances,
        entries=entries,
        has_more=has_more,
    )


def _download(text: str, name: str) -> Answered[Written]:
    disposition = (b"content-disposition", f'attachment; filename="{name}"'.encode())
    return Answered(Written(text.encode(), b"text/csv; charset=utf-8"), (disposition,))


def entry_shapes(
    before: dict[str, int], entries: Iterable[LedgerEntry], markets: MarketMap, time_scale: int
) -> list[EntryShape]:
    """Return entries with the balance after each: the stored one, or `before` plus the amounts since."""
    running = dict(before)
    shapes = []
    for position, asset, kind, amount, balance, reference in entries:
        running[asset] = running.get(asset, 0) + amount if balance is None else balance
        shapes.append(
            EntryShape(
                position=str(position),
                time=position.time * time_scale,
                asset=asset,
                kind=kind,
                amount=markets.format_amount(amount, asset),
                balance=markets.format_amount(running[asset], asset),
                reference=reference,
            )
        )
    return shapes


def csv_of(
    entries: Iterable[EntryShape], balances: Sequence[StatedBalanceShape], *, is_first: bool, is_last: bool
) -> str:
    """Return a part of a statement as CSV (RFC 4180).

    The first and the last part contain the balances before and after the period.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    if is_first:
        writer.writerows(
            ("", "", _harmless(balance.asset), _OPENING, "", balance.opening, "") for balance in balances
        )
    writer.writerows(
        (
            *(entry.position, entry.time, _harmless(entry.asset), _harmless(entry.kind)),
            *(entry.amount, entry.balance, _harmless(entry.reference)),
        )
        for entry in entries
    )
    if is_last:
        writer.writerows(
            ("", "", _harmless(balance.asset), _CLOSING, "", balance.closing, "") for balance in balances
        )
    return text.getvalue()


def _harmless(text: str) -> str:
    """Return a text that no spreadsheet evaluates as a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _weight(parameters: Parameters) -> int:
    return 10 if "asset" in parameters else 20


FUNCTION = Function(
    "GET",
    "/api/v1/statement",
    Group.ACCOUNT,
    "Statement of account",
    get_statement,
    security=Security.OWNER,
    weight=_weight,
    parameters=(
        START_TIME,
        END_TIME,
        ASSET._replace(description="Asset, for example BTC; all by default."),
        Parameter("after", "Only what came after this entry: its position.", pattern=POSITION_PATTERN),
        Parameter("format", "json, which is the default, or csv.", choices=("json", "csv")),
        limit_parameter(_LIMIT_DEFAULT, _LIMIT_MAX),
    ),
    also_writes=(_CSV,),
)
