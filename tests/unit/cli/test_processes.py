"""Which processes an exchange has."""

from cli.processes import engines
from runtime.settings import Settings, load_settings


def test_each_shard_has_a_worker() -> None:
    assert [spec.name for spec in engines(Settings(shard_count=2))] == ["engine-0", "engine-1"]


def test_standbys_come_after_all_first_workers_under_names_of_their_own() -> None:
    specs = engines(Settings(shard_count=2, standbys=2, up_metrics_port=9_000))
    names = ["engine-0", "engine-1", *(f"engine-{shard}-standby-{n}" for n in (1, 2) for shard in (0, 1))]
    assert [spec.name for spec in specs] == names
    settings = [load_settings({"EXCHANGE_SHARD_COUNT": "2", **spec.environment}) for spec in specs]
    assert [each.engine_name() for each in settings] == names
    assert [each.shard for each in settings] == [0, 1, 0, 1, 0, 1]
    assert len({each.metrics_port for each in settings}) == len(specs)


def test_a_worker_that_is_not_named_is_its_shards_first() -> None:
    assert Settings(shard_count=3, shard=2).engine_name() == "engine-2"
