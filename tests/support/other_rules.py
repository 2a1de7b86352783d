"""An engine worker whose program follows other rules, so that its state differs: it takes another taker fee
than its log says.

`python -m tests.support.other_rules` runs one that looks again soon after it differed; with the argument
`snapshot`, the process that makes a snapshot from the log.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from engine_worker import main, snapshot_from_log
from engine_worker.core.account_half import AccountHalf
from engine_worker.core.accounts import Account
from engine_worker.cores import OBJECTS, shard_of
from engine_worker.frame_core import FrameCore
from engine_worker.snapshots import STDOUT
from engine_worker.worker import Worker
from protocol.events import OrderFilled
from protocol.market import Market
from protocol.orders import OrderState
from runtime.settings import PREFIX

TAKER_FEE_PPM = 7_000
_RETRY_S = 0.2

_settle = AccountHalf._settle


def _settle_otherwise(
    self: AccountHalf, account: Account, order: OrderState, market: Market, *fill: Any, **options: Any
) -> OrderFilled:
    other = msgspec.structs.replace(market, taker_fee_ppm=TAKER_FEE_PPM)
    return _settle(self, account, order, other, *fill, **options)


class AccountHalfWithOtherRules(AccountHalf):
    """The account's half of a shard that takes another fee."""

    __slots__ = ()
    _settle = _settle_otherwise


class WorkerWithOtherRules(Worker):
    """A worker each of whose shards follows the other rules, a restored one as well."""

    @property
    def core(self) -> FrameCore:
        return self._core

    @core.setter
    def core(self, core: FrameCore) -> None:
        shard_of(core).account_half.__class__ = AccountHalfWithOtherRules
        self._core = core


def start_snapshot(output: int, environment: Mapping[str, str]) -> int:
    """Start the process that makes a snapshot, as `snapshot_from_log.start` does."""
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", __name__, "snapshot"],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, output, STDOUT)],
    )


if __name__ == "__main__":
    os.environ[f"{PREFIX}CORE"] = OBJECTS  # whose rules are changed
    AccountHalf._settle = _settle_otherwise  # type: ignore[method-assign]
    if sys.argv[1:] == ["snapshot"]:
        snapshot_from_log.main()
    else:
        main.DIFFERS_RETRY_S = _RETRY_S
        main.main()
