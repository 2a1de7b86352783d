"""Where a scheduler puts the pods of `production`: all of them on three nodes, and on two.

The two of a pair never on the same one.
"""

import itertools
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.deploy.cluster import pods
from tests.deploy.rendered import Object, named, rendered
from tests.deploy.scheduling import Node, Placement, Task, may_share_a_node, place, quantity, tasks

GIB: Final = 2.0**30
THREE: Final = [Node(f"node-{number}", 8, 32 * GIB) for number in range(3)]
TWO: Final = THREE[:2]
PAIRS: Final = ("engine-0", "engine-1", "engine-2", "redis", "database")
"""The prefixes of the names of pods of which two on one node would be as good as one."""


def of(prefix: str, found: list[Task]) -> list[Task]:
    return [each for each in found if each.name.rpartition("-")[0] == prefix]


def test_the_workers_of_one_shard_are_apart_and_those_of_different_shards_need_not_be() -> None:
    engines = [each for each in tasks(rendered("production")) if each.name.startswith("engine-")]
    assert len(engines) == 6
    for one, other in itertools.combinations(engines, 2):
        is_one_shard = one.labels["exchange/shard"] == other.labels["exchange/shard"]
        assert may_share_a_node(one, other) == (not is_one_shard), (one.name, other.name)


def hosts(placement: Placement, prefix: str) -> list[str]:
    return [node for node, there in placement.nodes.items() for _ in of(prefix, there)]


@pytest.mark.parametrize("nodes", [THREE, TWO], ids=["three", "two"])
def test_production_fits(nodes: list[Node]) -> None:
    placement = place(rendered("production"), nodes)
    assert placement.pending == []
    for prefix in PAIRS:
        found = hosts(placement, prefix)
        assert len(found) == len(set(found)) == 2, prefix
    assert len(set(hosts(placement, "sentinel"))) == len(nodes)
    assert len(hosts(placement, "sentinel")) == 3


def test_every_node_of_three_that_is_lost_leaves_one_of_each_pair_and_a_majority_of_sentinels() -> None:
    placement = place(rendered("production"), THREE)
    for lost in placement.nodes:
        left = [each for node, there in placement.nodes.items() if node != lost for each in there]
        assert all(of(prefix, left) for prefix in PAIRS), lost
        assert len(of("sentinel", left)) == 2


@pytest.mark.parametrize("overlay", ["local", "minimal"])
def test_the_small_overlays_fit_on_one_node(overlay: str) -> None:
    assert place(rendered(overlay), [Node("laptop", 4, 8 * GIB)]).pending == []


def affinity(objects: list[Object], name: str) -> dict[str, Any]:
    found: dict[str, Any] = named(objects, "StatefulSet", name)["spec"]["template"]["spec"]["affinity"][
        "podAntiAffinity"
    ]
    return found


def before(objects: list[Object]) -> None:
    """The term of before named the workers of any shard."""
    for name in ("engine-0", "engine-1", "engine-2"):
        (term,) = affinity(objects, name)["requiredDuringSchedulingIgnoredDuringExecution"]
        term["labelSelector"] = {"matchLabels": {"app.kubernetes.io/name": "engine"}}


def sentinels_before(objects: list[Object]) -> None:
    """The sentinels had to have a node each."""
    spec = named(objects, "StatefulSet", "sentinel")["spec"]["template"]["spec"]
    term = {key: spec.pop("topologySpreadConstraints")[0][key] for key in ("topologyKey",)}
    term["labelSelector"] = {"matchLabels": {"app.kubernetes.io/name": "sentinel"}}
    spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def too_large(objects: list[Object]) -> None:
    redis = named(objects, "StatefulSet", "redis")["spec"]["template"]["spec"]
    redis["containers"][0]["resources"]["requests"]["memory"] = "40Gi"


@pytest.mark.parametrize(
    ("plant", "nodes", "pending"),
    [(before, THREE, 3), (before, TWO, 4), (sentinels_before, TWO, 1), (too_large, THREE, 2)],
)
def test_what_does_not_fit_is_pending(
    plant: Callable[[list[Object]], None], nodes: list[Node], pending: int
) -> None:
    objects = rendered("production")
    plant(objects)
    assert len(place(objects, nodes).pending) == pending


def test_a_term_that_names_nobody_lets_both_onto_one_node() -> None:
    objects = rendered("production")
    affinity(objects, "engine-0")["requiredDuringSchedulingIgnoredDuringExecution"].clear()
    engines = of("engine-0", list(tasks(objects)))
    assert may_share_a_node(*engines)


def test_quantities_are_read() -> None:
    assert [quantity(each) for each in ("250m", "2", "1Gi", "64Mi", 3)] == [0.25, 2, 2**30, 2**26, 3]
    assert any(pod.kind == "CronJob" for pod in pods(rendered("production")))
