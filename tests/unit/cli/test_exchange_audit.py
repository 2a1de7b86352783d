"""Adding up the shards' books."""

import msgspec
import pytest

from cli.exchange_audit import ExchangeAudit, ShardAudit, add_up, is_consistent
from protocol.replies import AuditReply, stored_audit_row
from protocol.units import TimeMs

Row = tuple[str, int, int, int, int, int, int]


def reply(
    shard: int, *rows: Row, sent: tuple[tuple[int, int], ...] = (), received: tuple[tuple[int, int], ...] = ()
) -> AuditReply:
    stored_rows = tuple(stored_audit_row(row) for row in rows)
    return AuditReply(shard, TimeMs(1), stored_rows, 0, 7, "5-0", "digest", received, sent)


TWO = {
    # Shard 0 has received 30 from shard 1, of which it keeps 1 as its fee.
    0: reply(0, ("USDT", 100, 28, 2, 100, 0, 30), sent=((1, 4),), received=((1, 9),)),
    1: reply(1, ("USDT", 60, 5, 0, 100, 5, -30), sent=((0, 9),), received=((0, 4),)),
}


def audit(replies: dict[int, AuditReply]) -> ExchangeAudit:
    shards = [ShardAudit(shard, each.position, 7, each.digest, each.rows) for shard, each in replies.items()]
    return ExchangeAudit(add_up(replies), shards, {"USDT": 8})


def test_what_adds_up() -> None:
    found = audit(TWO)
    assert is_consistent(TWO)
    assert found.problems() == []
    [usdt] = found.assets
    assert (usdt.available, usdt.held, usdt.fees, usdt.deposited, usdt.withdrawn, usdt.settled) == (
        160,
        33,
        2,
        200,
        5,
        0,
    )
    assert usdt.difference() == 0


@pytest.mark.parametrize("change", [{"sent": ((1, 5),)}, {"received": ((1, 8),)}, {"received": ()}])
def test_mail_on_its_way_is_no_moment_to_look_at(change: dict[str, tuple[tuple[int, int], ...]]) -> None:
    assert not is_consistent({**TWO, 0: msgspec.structs.replace(TWO[0], **change)})


def test_money_out_of_nowhere_in_one_shard_is_named() -> None:
    richer = msgspec.structs.replace(
        TWO[0], stored_rows=(stored_audit_row(("USDT", 101, 28, 2, 100, 0, 30)),)
    )
    found = audit({**TWO, 0: richer}).problems()
    assert "shard 0, USDT: +0.00000001 (+1 units)" in found[0]
    assert "USDT: +0.00000001 (+1 units) against deposits - withdrawals" in found[1]


def test_settlements_that_do_not_cancel_out_are_named() -> None:
    # The shard's own books are right: it settled a trade for more than the other side paid.
    richer = msgspec.structs.replace(
        TWO[0], stored_rows=(stored_audit_row(("USDT", 105, 28, 2, 100, 0, 35)),)
    )
    [problem] = audit({**TWO, 0: richer}).problems()
    assert "USDT: the settlements of all shards do not cancel out: +0.00000005 (+5 units)" in problem
