"""Whether the shards may be switched, by what processes have said that they read."""

import pytest

from cli.formats import expected, release_text
from protocol.configuration import ShardConfig
from protocol.release import Release
from protocol.switching import Reader, plan_switch, switched
from runtime.settings import Settings

OLD, NEW = Release(2, 1, 1), Release(3, 2, 1)
CONFIGS = {0: ShardConfig(version=4), 1: ShardConfig(format=3, kinds=2, version=9)}


def test_the_processes_that_there_must_be() -> None:
    settings = Settings(shard_count=2, standbys=1, gateways=2, ws_edges=2, persist_workers=2)
    assert expected(settings) == [
        "gateway", "gateway-2", "engine-0", "engine-1", "engine-0-standby-1", "engine-1-standby-1", "feeds",
        "ws-edge", "ws-edge-2",
        "persist-nudger", "persist-worker", "persist-worker-2",
    ]  # fmt: skip


def test_all_read_the_newest() -> None:
    planned = plan_switch(CONFIGS, [Reader("engine-0", NEW), Reader("feeds", NEW)])
    assert planned == (NEW, (), (0,))
    assert switched(CONFIGS[0], NEW) == ShardConfig(rules=1, version=5, format=3, kinds=2)


def test_nothing_is_left_to_switch() -> None:
    assert plan_switch({0: ShardConfig()}, [Reader("feeds", OLD)]) == (OLD, (), ())


@pytest.mark.parametrize(
    "reads", [OLD, Release(0, 0, 0), Release(3, 1, 1), Release(2, 2, 1), Release(3, 2, 0), None]
)
def test_one_that_reads_less_or_is_not_heard_forbids_it(reads: Release | None) -> None:
    found = [Reader("engine-0", NEW), Reader("feeds", reads)]
    assert plan_switch(CONFIGS, found).lacking == (Reader("feeds", reads),)
    planned = plan_switch(CONFIGS, found, ["feeds", "nobody"])
    assert planned.lacking == (() if reads is None else (Reader("feeds", reads),)), (
        "one that lives cannot be left out"
    )


def test_a_shard_that_writes_more_than_anybody_reads_is_no_less() -> None:
    """Every process is of an earlier release, and none of them leads."""
    planned = plan_switch(CONFIGS, [Reader("gateway", OLD)])
    assert (planned.newest, planned.lacking) == (NEW, (Reader("gateway", OLD),))


def test_as_people_read_it() -> None:
    assert release_text(NEW) == "format 3, kinds 2, rules 1"
    assert release_text(Release(0, 0, 0)) == "an earlier release"
    assert release_text(None) == "not heard"
