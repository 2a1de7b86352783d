"""20,000 requests that schemathesis makes from the description of the API, stateful ones included: no 5xx,
and nothing undescribed.

    .venv/bin/python -m pytest -s --timeout 3600 tests/long/schema_fuzzing.py

SCHEMA_FUZZING_CASES and SCHEMA_FUZZING_SEED choose how many and which. It prints what was seen of each
operation.
"""

import os
import signal
import sys
import time
from collections import Counter

from tests.integration.gateway.conftest import processes
from tests.support.described_api import BY_LABEL, a_world, exchange
from tests.support.gateway_processes import Processes
from tests.support.schema_fuzzing import ask_rightly, fuzz, fuzz_stateful, knock_on_every_door, report

__all__ = ["processes"]

CASES = int(os.environ.get("SCHEMA_FUZZING_CASES", "20000"))
SEED = int(os.environ.get("SCHEMA_FUZZING_SEED", "1"))
STEPS = 25
STATEFUL_SHARE = 0.25
ROUNDS = 4
SEEN_MIN = 0.95
_NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


def test_nothing_is_answered_that_is_not_described(processes: Processes) -> None:
    with exchange(processes) as (url, document):
        world, began_s = a_world(processes, url, document, SEED), time.monotonic()
        operations = sum(len(item) for item in document["paths"].values())
        fuzz(world, document, max(3, round(CASES * (1 - STATEFUL_SHARE) / operations / ROUNDS)), SEED, ROUNDS)
        single = world.seen.cases.total()
        fuzz_stateful(world, document, CASES - single, STEPS, SEED)
        total, spent_s = world.seen.cases.total(), time.monotonic() - began_s
        answered: Counter[int] = Counter()
        for each in world.seen.statuses.values():
            answered.update(each)
        limited = processes.gateway(RATE_LIMITS_ENABLED="true", REQUEST_WEIGHT_PER_MINUTE="1")
        knock_on_every_door(world, url, limited, processes.gateway(REQUEST_TIMEOUT_MS="500"))
        listen_keys = [label for label in BY_LABEL if label.endswith("/userDataStream")]
        ask_rightly(world, processes.gateway(LISTEN_KEYS_ENABLED="false"), listen_keys)
        alone = processes.gateway(DATABASE_URL=_NOWHERE, REPLY_TIMEOUT_MS="500")
        for shard in processes.started[: processes.shard_count]:
            shard.send_signal(signal.SIGSTOP)
        ask_rightly(world, alone, BY_LABEL)
        for shard in processes.started[: processes.shard_count]:
            shard.send_signal(signal.SIGCONT)
        ask_rightly(
            world, processes.gateway(REDIS_URL="redis://127.0.0.1:1/0", DATABASE_URL=_NOWHERE), BY_LABEL
        )
    text, statuses, fields = report(document, world.seen)
    sys.stdout.write(
        f"{text}\n{total} cases ({total - single} of them in walks) in {spent_s:.0f} s; answers: "
        f"{dict(answered)}\nwith refusals at the door and in an outage: {statuses:.1%} of the described "
        f"statuses, {fields:.1%} of the described fields of answers\n"
    )
    assert world.seen.violations == []
    assert not [status for status in answered if status >= 500]
    assert total >= CASES
    assert statuses >= SEEN_MIN
    assert fields >= SEEN_MIN
