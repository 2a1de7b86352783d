"""What the manifests name is there, and the check notices when it is not."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.references import missing
from tests.deploy.rendered import OVERLAYS, ROOT, Object, named, rendered

PRODUCTION_SECRETS: Final[Mapping[str, Sequence[str]]] = {
    **{
        f"exchange-redis-{role}": ["url", "cache-url"]
        for role in ("gateway", "edge", "engine", "feeds", "persist", "operator")
    },
    **{
        f"exchange-database-{role}": ["username", "password", "url"]
        for role in ("gateway", "edge", "persist")
    },
    "redis-users": ["users.acl", "replica-password", "sentinel-password"],
    "exchange-master-key": ["key", "previous"],
    "exchange-metrics": ["password"],
    "exchange-tls": ["tls.crt", "tls.key"],
    "backup-credentials": ["access-key-id", "secret-access-key"],
    "database-app": ["uri"],
}
"""Those that docs/reference/kubernetes.md has people make, and what CloudNativePG makes."""


def secrets_of(overlay: str) -> Mapping[str, Sequence[str]]:
    return PRODUCTION_SECRETS if overlay == "production" else {}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_that_is_named_is_there(overlay: str) -> None:
    assert missing(rendered(overlay), secrets_of(overlay)) == []


def test_the_secrets_that_must_be_made_are_documented() -> None:
    text = Path(ROOT / "docs" / "reference" / "kubernetes.md").read_text("utf-8")
    assert [name for name in PRODUCTION_SECRETS if f"`{name}`" not in text] == []


def pod(objects: list[Object], kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = named(objects, kind, name)["spec"]["template"]["spec"]
    return spec


def volume(spec: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in spec["volumes"] if each["name"] == name)
    return dict(found)


def drop(objects: list[Object], kind: str, name: str) -> None:
    objects.remove(named(objects, kind, name))


@pytest.mark.parametrize(
    ("says", "break_it"),
    [
        (
            "Service ws-edge: selects no pods",
            lambda all_: named(all_, "Service", "ws-edge")["spec"].update(selector={"a": "b"}),
        ),
        (
            "Service gateway-orders: gateway-orders has no port http",
            lambda all_: named(all_, "Service", "gateway-orders")["spec"]["ports"][0].update(
                targetPort="http"
            ),
        ),
        ("Ingress exchange: / leads to no port of frontend", lambda all_: drop(all_, "Service", "frontend")),
        ("is served without TLS", lambda all_: named(all_, "Ingress", "exchange")["spec"].update(tls=[])),
        (
            "HorizontalPodAutoscaler ws-edge: there is no Deployment ws-edge",
            lambda all_: drop(all_, "Deployment", "ws-edge"),
        ),
        (
            "ScaledObject persist-worker: there is no Deployment gone",
            lambda all_: named(all_, "ScaledObject", "persist-worker")["spec"]["scaleTargetRef"].update(
                name="gone"
            ),
        ),
        ("PodDisruptionBudget redis: selects no pods", lambda all_: drop(all_, "StatefulSet", "redis")),
        ("NetworkPolicy ingress-ws: selects no pods", lambda all_: drop(all_, "Deployment", "ws-edge")),
        (
            "NetworkPolicy redis: nobody listens on 6380",
            lambda all_: named(all_, "NetworkPolicy", "redis")["spec"]["ingress"][0]["ports"].append(
                {"protocol": "TCP", "port": 6380}
            ),
        ),
        (
            "NetworkPolicy redis: there is no",
            lambda all_: named(all_, "NetworkPolicy", "redis")["spec"]["ingress"][0]["from"].append(
                {"podSelector": {"matchLabels": {"a": "b"}}}
            ),
        ),
        (
            "feeds: there is no ConfigMap gone",
            lambda all_: pod(all_, "Deployment", "feeds")["containers"][0]["envFrom"][0][
                "configMapRef"
            ].update(name="gone"),
        ),
        (
            "feeds: Secret exchange-redis-feeds has no uri",
            lambda all_: volume(pod(all_, "Deployment", "feeds"), "redis")["secret"]["items"][0].update(
                key="uri"
            ),
        ),
        (
            "has no GONE",
            lambda all_: pod(all_, "Deployment", "frontend")["containers"][0]["env"][0]["valueFrom"][
                "configMapKeyRef"
            ].update(key="GONE"),
        ),
        (
            "ConfigMap more: nobody uses it",
            lambda all_: all_.append({"kind": "ConfigMap", "metadata": {"name": "more"}}),
        ),
        (
            "feeds: does not select its own pods",
            lambda all_: named(all_, "Deployment", "feeds")["spec"]["selector"].update(
                matchLabels={"a": "b"}
            ),
        ),
        ("there is no ServiceAccount exchange", lambda all_: drop(all_, "ServiceAccount", "exchange")),
        (
            "there is no PriorityClass exchange-core",
            lambda all_: drop(all_, "PriorityClass", "exchange-core"),
        ),
        ("engine-0: there is no Service engine-0", lambda all_: drop(all_, "Service", "engine-0")),
        (
            "feeds: volumes and mounts differ: tmp",
            lambda all_: pod(all_, "Deployment", "feeds")["volumes"].pop(),
        ),
        (
            "feeds: its liveness probe asks port 9101",
            lambda all_: pod(all_, "Deployment", "feeds")["containers"][0]["livenessProbe"]["httpGet"].update(
                port=9101
            ),
        ),
        (
            "PodMonitor exchange: feeds has no port metrics",
            lambda all_: pod(all_, "Deployment", "feeds")["containers"][0].update(ports=[]),
        ),
    ],
)
def test_what_is_missing_is_found(says: str, break_it: Callable[[list[Object]], object]) -> None:
    objects = rendered("production")
    break_it(objects)
    assert [text for text in missing(objects, PRODUCTION_SECRETS) if says in text]
