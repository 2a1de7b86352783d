"""Everything in every overlay is what the Kubernetes API, and the operators, take: no field that nobody
knows, none of a wrong type."""

import functools
from collections.abc import Callable
from typing import Any, Final

import kubernetes_validate
import kubernetes_validate.utils
import msgspec
import pytest

from tests.deploy import custom_resources
from tests.deploy.rendered import OVERLAYS, Object, named, rendered

VERSIONS: Final = ("1.30.0", "1.37.0")
"""The oldest version of Kubernetes that docs/how-to/deploy-on-kubernetes.md names, and the newest that there
are schemas of."""

# It reads all definitions anew, a megabyte, for every object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def is_custom(value: Object) -> bool:
    group = value["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def validate(objects: list[Object], version: str) -> None:
    for value in objects:
        if not is_custom(value):
            kubernetes_validate.validate(value, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_are_what_kubernetes_takes(overlay: str, version: str) -> None:
    validate(rendered(overlay), version)


def test_custom_resources_are_what_their_operators_take() -> None:
    found = [custom_resources.check(value) for value in rendered("production") if is_custom(value)]
    assert {type(each).__name__ for each in found} >= {
        "ScaledObject",
        "PodMonitor",
        "Cluster",
        "ScheduledBackup",
        "ObjectStore",
    }


def pod(objects: list[Object], name: str) -> dict[str, Any]:
    spec: dict[str, Any] = named(objects, "Deployment", name)["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(
    "break_it",
    [
        lambda all_: pod(all_, "feeds").update(securityContexts={}),
        lambda all_: pod(all_, "feeds").update(terminationGracePeriodSeconds="30s"),
        lambda all_: pod(all_, "feeds")["containers"][0]["livenessProbe"].update(period=3),
        lambda all_: pod(all_, "feeds")["containers"][0].pop("name"),
        lambda all_: named(all_, "NetworkPolicy", "redis")["spec"].update(ingres=[]),
        lambda all_: named(all_, "Ingress", "exchange")["spec"]["rules"][0]["http"]["paths"][0].pop(
            "pathType"
        ),
        lambda all_: named(all_, "PodDisruptionBudget", "redis")["spec"].update(maxUnavailble=1),
    ],
)
def test_what_kubernetes_does_not_take_is_found(break_it: Callable[[list[Object]], object]) -> None:
    objects = rendered("production")
    break_it(objects)
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(objects, VERSIONS[0])


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("ScaledObject", "persist-worker", {"maxReplicas": 3}),
        (
            "ScaledObject",
            "persist-worker",
            {"triggers": [{"type": "prometheus", "metadata": {"query": "up"}}]},
        ),
        (
            "PodMonitor",
            "exchange",
            {"podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "interval": 10}]},
        ),
        ("Cluster", "database", {"imageName": "registry.example.com/somebody/timescaledb"}),
        ("ScheduledBackup", "nightly", {"schedule": "0 3 * * *"}),
        ("ObjectStore", "backups", {"retention": "30d"}),
    ],
)
def test_what_operators_do_not_take_is_found(kind: str, name: str, change: dict[str, Any]) -> None:
    value = named(rendered("production"), kind, name)
    value["spec"].update(change)
    with pytest.raises(msgspec.ValidationError):
        custom_resources.check(value)
