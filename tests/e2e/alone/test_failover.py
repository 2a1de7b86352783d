"""Trading through the death of one leading worker after the other, with a standby: nothing acknowledged is
lost, and trading goes on."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cli.inquiries import ShardReport, shard_reports
from tests.support.eventually import eventually
from tests.support.killed_engines import (
    Trader,
    balances_are_what_the_fills_say,
    every_acknowledged_order_is_there,
    money_adds_up,
    trades_are_contiguous,
    wait_for_orders,
)
from tests.support.running_exchange import RunningExchange, running_exchange

CLIENTS = 3
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)


# Takes long: each failover lasts a lease, and the next one waits until a standby is in step again.
def test_trading_goes_on_through_failovers(data_dir: Path) -> None:
    with running_exchange(data_dir, standbys="1", snapshot_interval_s="2") as exchange:
        names = {each.name for each in exchange.processes()}
        assert {"engine-0", "engine-0-standby-1"} <= names
        traders = [Trader(exchange.url, number) for number in range(CLIENTS)]
        stop = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(trader.trade, stop) for trader in traders]
            try:
                for number in SIGNALS:
                    wait_for_orders(traders, running)
                    fail_over(exchange, number)
                wait_for_orders(traders, running)
            finally:
                stop.set()
            for each in running:
                each.result()

        for trader in traders:
            every_acknowledged_order_is_there(trader)
            balances_are_what_the_fills_say(trader.api)
        eventually("trades without a gap in the database", lambda: trades_are_contiguous(traders))
        eventually("money adds up on all shards", lambda: money_adds_up(exchange))
        report, *_ = exchange.command("shards")
        assert report["epoch"] == 1 + len(SIGNALS)
        assert report["snapshot_age_ms"] is not None


def in_step(exchange: RunningExchange) -> ShardReport | None:
    """Return how the first shard stands when it has a leader and a standby that is in step with it."""
    report = shard_reports(exchange.settings)[0]
    return report if report.leader and any(each.behind_ms == 0 for each in report.standbys) else None


def fail_over(exchange: RunningExchange, number: signal.Signals) -> None:
    """Stop the worker that leads the first shard, and wait until the other one leads and it stands by
    itself.
    """
    before = eventually("a leader and a standby", lambda: in_step(exchange), timeout_s=60)
    assert before.leader_pid is not None
    os.kill(before.leader_pid, number)

    def other_leads() -> bool:
        report = shard_reports(exchange.settings)[0]
        return report.leader_pid not in (None, before.leader_pid) and report.epoch > before.epoch

    eventually("the standby leads", other_leads)
    eventually("a leader and a standby again", lambda: in_step(exchange), timeout_s=60)
