"""The table of keys is one: the module's description, its functions and what a restore goes by say the
same.
"""

import inspect
import re
from typing import Any

from protocol import streams
from protocol.streams import KEYS, AfterLoss, MarketDataKind, after_loss
from tests.support.keys import described

NOT_NAMES = {"process_of_health", "shard_of", "after_loss"}
ARGUMENTS: dict[str, Any] = {"shard": 3, "account_id": 5, "window": 7, "kind": MarketDataKind.TRADE}


def test_every_key_that_is_described_has_its_place_and_the_other_way_round() -> None:
    assert {name.partition(":")[0] for name, kind in described() if kind != "channel"} == KEYS.keys()


def test_every_function_makes_a_name_that_is_described() -> None:
    patterns = {name.partition(":")[0] for name, _ in described()}
    functions = dict(inspect.getmembers(streams, inspect.isfunction))
    made = {
        name: function(
            *(ARGUMENTS.get(parameter, "x") for parameter in inspect.signature(function).parameters)
        )
        for name, function in functions.items()
        if name not in NOT_NAMES and not name.startswith("_") and function.__module__ == streams.__name__
    }
    assert {text.partition(":")[0] for text in made.values()} == patterns - {streams.JOBS_NAMESPACE}


def test_what_is_not_ours_is_kept() -> None:
    assert after_loss("somebody:else") is AfterLoss.KEPT
    assert after_loss(streams.depth_diffs(0, "BTCUSDT")) is AfterLoss.REPLACED
    assert re.fullmatch(r"\{dramatiq\}", streams.JOBS_NAMESPACE)
    assert after_loss(f"{streams.JOBS_NAMESPACE}:queue") is AfterLoss.KEPT
