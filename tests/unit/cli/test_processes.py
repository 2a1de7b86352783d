"""Which processes an exchange has."""

import pytest

from cli.local.free_ports import ports_used
from cli.local.processes import ProcessSpec, edges, engines, feeds, gateways, persist_workers, readers, urls
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


def test_further_ones_of_a_kind_have_names_and_ports_of_their_own() -> None:
    settings = Settings(
        gateways=3,
        feeds_processes=2,
        ws_edges=2,
        persist_workers=2,
        metrics_port=9_000,
        standbys=9,
        shard_count=100,
    )
    specs = [*gateways(settings), *readers(settings)]
    assert [spec.name for spec in specs] == [
        *("gateway", "gateway-2", "gateway-3", "feeds", "feeds-2", "ws-edge", "ws-edge-2"),
        *("persist-nudger", "persist-worker", "persist-worker-2"),
    ]
    assert (
        [_settings(spec).rest_port for spec in gateways(settings)]
        == settings.rest_ports()
        == [8000, 8100, 8200]
    )
    assert [_settings(spec).ws_port for spec in edges(settings)] == settings.ws_ports() == [8001, 8101]
    named = [
        (spec, kind)
        for specs, kind in (
            (gateways(settings), "gateway"),
            (feeds(settings), "feeds"),
            (edges(settings), "ws-edge"),
        )
        for spec in specs
    ]
    named += [(spec, "persist-worker") for spec in persist_workers(settings)]
    assert all(_settings(spec).name_of_process(kind) == spec.name for spec, kind in named)
    everything = [*specs, *engines(settings)]
    assert len({_settings(spec).metrics_port for spec in everything}) == len(everything)
    assert {port for _, port, setting in ports_used(settings) if setting.endswith("REST_PORT")} == {
        8000,
        8100,
        8200,
    }
    assert (urls(settings)["rest"], urls(settings)["rest-3"], urls(settings)["ws-2"]) == (
        *("http://127.0.0.1:8000", "http://127.0.0.1:8200", "ws://127.0.0.1:8101"),
    )


@pytest.mark.parametrize(
    ("processes", "chosen", "parts"),
    [
        (1, "", [[0, 1, 2, 3, 4]]),
        (2, "", [[0, 2, 4], [1, 3]]),
        (5, "", [[0], [1], [2], [3], [4]]),
        (2, "4,1,3", [[1, 4], [3]]),
        (3, "2", [[2]]),
    ],
)
def test_shards_are_divided_among_the_feeds(processes: int, chosen: str, parts: list[list[int]]) -> None:
    settings = Settings(shard_count=5, feeds_processes=processes, feeds_shards=chosen)
    assert [_settings(spec).shards_of_feeds() for spec in feeds(settings)] == parts


def _settings(spec: ProcessSpec) -> Settings:
    return load_settings({"EXCHANGE_SHARD_COUNT": "100", **spec.environment})
