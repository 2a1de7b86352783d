"""Every overlay keeps to every rule; and each rule notices when it is broken."""

import base64
import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.cluster import POD_NAME
from tests.deploy.policy import RULES, violations
from tests.deploy.rendered import OVERLAYS, ROOT, Object, named, of_kind, render, rendered

Break = Callable[[list[Object]], object]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_workload_keeps_to_the_rules(overlay: str) -> None:
    assert violations(rendered(overlay)) == []


def test_two_feeds_keep_to_the_rules_and_divide_the_shards(tmp_path: Path) -> None:
    for folder in ("k8s", "deploy"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    overlay = tmp_path / "k8s" / "overlays" / "production"
    file = overlay / "kustomization.yaml"
    before = "  - ../../components/process\n"
    file.write_text(file.read_text().replace(before, "  - ../../components/two-feeds\n" + before))
    objects = render(overlay)
    assert violations(objects) == []
    names = [each["metadata"]["name"] for each in of_kind(objects, "Deployment")]
    assert [name for name in names if name.startswith("feeds")] == ["feeds", "feeds-2"]
    remove(objects, "Deployment", "feeds-2")
    assert violations(objects) == [("feeds_shards", "shard 1: 0 feeds processes follow it")]


def pod(objects: list[Object], kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = named(objects, kind, name)["spec"]["template"]["spec"]
    return spec


def container(objects: list[Object], kind: str, name: str) -> dict[str, Any]:
    first: dict[str, Any] = pod(objects, kind, name)["containers"][0]
    return first


def orders(objects: list[Object]) -> dict[str, Any]:
    return container(objects, "Deployment", "gateway-orders")


def migrate(objects: list[Object]) -> dict[str, Any]:
    (found,) = of_kind(objects, "Job")
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def restore(objects: list[Object]) -> dict[str, Any]:
    (found,) = of_kind(objects, "CronJob")
    spec: dict[str, Any] = found["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


def settings(objects: list[Object]) -> dict[str, str]:
    (found,) = (
        each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"].startswith("settings")
    )
    data: dict[str, str] = found["data"]
    return data


def remove(objects: list[Object], kind: str, name: str) -> None:
    objects.remove(named(objects, kind, name))


def without_anti_affinity(objects: list[Object]) -> None:
    engine = pod(objects, "StatefulSet", "engine-1")
    engine["topologySpreadConstraints"][0]["topologyKey"] = "kubernetes.io/hostname"
    del engine["affinity"]


def without_pod_names(objects: list[Object]) -> None:
    del named(objects, "Service", "redis-0")["spec"]["selector"][POD_NAME]


def feeds_of(objects: list[Object], shards: str) -> None:
    container(objects, "Deployment", "feeds")["env"].append(
        {"name": "EXCHANGE_FEEDS_SHARDS", "value": shards}
    )


OLD_NODES: Final = {"name": "NODES", "value": "redis-0.redis redis-1.redis"}

PLANTED: list[tuple[str, Break]] = [
    ("unprivileged", lambda all_: pod(all_, "Deployment", "feeds").pop("securityContext")),
    ("unprivileged", lambda all_: pod(all_, "StatefulSet", "redis")["securityContext"].update(runAsUser=0)),
    ("unprivileged", lambda all_: migrate(all_)["securityContext"].pop("seccompProfile")),
    ("unprivileged", lambda all_: restore(all_).pop("securityContext")),
    ("unprivileged", lambda all_: pod(all_, "Deployment", "feeds").update(hostNetwork=True)),
    (
        "unprivileged",
        lambda all_: pod(all_, "Deployment", "feeds")["volumes"].append(
            {"name": "x", "hostPath": {"path": "/"}}
        ),
    ),
    ("unprivileged", lambda all_: orders(all_)["securityContext"].update(allowPrivilegeEscalation=True)),
    ("unprivileged", lambda all_: orders(all_)["securityContext"].update(capabilities={"drop": ["NET_RAW"]})),
    ("unprivileged", lambda all_: orders(all_)["securityContext"].update(runAsNonRoot=False)),
    (
        "unprivileged",
        lambda all_: pod(all_, "Deployment", "ws-edge")["initContainers"][0].pop("securityContext"),
    ),
    ("read_only_root", lambda all_: orders(all_)["securityContext"].update(readOnlyRootFilesystem=False)),
    ("image_tag", lambda all_: orders(all_).update(image="registry.example.com:5000/exchange")),
    ("image_tag", lambda all_: orders(all_).update(image="exchange:latest")),
    ("resources", lambda all_: orders(all_)["resources"]["limits"].pop("memory")),
    ("resources", lambda all_: orders(all_)["resources"].pop("requests")),
    ("probes", lambda all_: orders(all_).pop("startupProbe")),
    ("probes", lambda all_: orders(all_)["livenessProbe"]["httpGet"].update(path="/readyz")),
    (
        "probes",
        lambda all_: container(all_, "StatefulSet", "redis").update(
            readinessProbe={"tcpSocket": {"port": "redis"}}
        ),
    ),
    ("disruption_budget", lambda all_: remove(all_, "PodDisruptionBudget", "engine-2")),
    (
        "disruption_budget",
        lambda all_: named(all_, "PodDisruptionBudget", "engine-2")["spec"].update(maxUnavailable=0),
    ),
    ("apart", without_anti_affinity),
    ("apart", lambda all_: pod(all_, "Deployment", "ws-edge").pop("topologySpreadConstraints")),
    ("network", lambda all_: remove(all_, "NetworkPolicy", "default-deny")),
    (
        "network",
        lambda all_: named(all_, "NetworkPolicy", "default-deny")["spec"].update(policyTypes=["Ingress"]),
    ),
    ("network", lambda all_: named(all_, "NetworkPolicy", "redis")["spec"]["ingress"][0].pop("ports")),
    ("token", lambda all_: pod(all_, "Deployment", "feeds").pop("automountServiceAccountToken")),
    ("token", lambda all_: pod(all_, "Deployment", "feeds").pop("serviceAccountName")),
    ("token", lambda all_: named(all_, "ServiceAccount", "exchange").pop("automountServiceAccountToken")),
    ("service_links", lambda all_: pod(all_, "Deployment", "feeds").pop("enableServiceLinks")),
    (
        "secret_values",
        lambda all_: settings(all_).update(EXCHANGE_REDIS_URL="redis://exchange:guessed@redis:6379/0"),
    ),
    ("secret_values", lambda all_: settings(all_).update(EXCHANGE_MASTER_KEY="AAAA")),
    ("secret_values", lambda all_: orders(all_)["env"].append({"name": "PGPASSWORD", "value": "guessed"})),
    (
        "secret_values",
        lambda all_: orders(all_)["env"].append(
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}
        ),
    ),
    ("secret_values", lambda all_: orders(all_)["envFrom"].append({"secretRef": {"name": "exchange-redis"}})),
    ("grace", lambda all_: pod(all_, "Deployment", "ws-edge").update(terminationGracePeriodSeconds=20)),
    ("grace", lambda all_: pod(all_, "Deployment", "feeds").pop("terminationGracePeriodSeconds")),
    ("drained", lambda all_: orders(all_).pop("lifecycle")),
    ("drained", lambda all_: named(all_, "Deployment", "ws-edge")["spec"].pop("strategy")),
    ("addresses", lambda all_: remove(all_, "Service", "redis-1")),
    ("addresses", lambda all_: named(all_, "Service", "sentinel-2")["spec"].update(clusterIP="None")),
    ("addresses", lambda all_: named(all_, "Service", "redis-0")["spec"].pop("publishNotReadyAddresses")),
    ("addresses", without_pod_names),
    ("addresses", lambda all_: container(all_, "StatefulSet", "redis")["env"].append(OLD_NODES)),
    ("first_start", lambda all_: of_kind(all_, "Job")[0]["spec"].update(activeDeadlineSeconds=60)),
    ("first_start", lambda all_: of_kind(all_, "Job")[0]["spec"].update(backoffLimit=0)),
    ("first_start", lambda all_: pod(all_, "Deployment", "ws-edge").pop("initContainers")),
    ("first_start", lambda all_: orders(all_)["startupProbe"].update(failureThreshold=3)),
    ("scaled", lambda all_: named(all_, "Deployment", "gateway-orders")["spec"].update(replicas=2)),
    (
        "scaled",
        lambda all_: named(all_, "ScaledObject", "persist-worker")["spec"]["scaleTargetRef"].update(
            name="ws-edge"
        ),
    ),
    ("namespace", lambda all_: named(all_, "Namespace", "exchange")["metadata"].update(labels={})),
    ("namespace", lambda all_: named(all_, "Service", "redis")["metadata"].update(namespace="default")),
    (
        "single_writer",
        lambda all_: named(all_, "Deployment", "feeds")["spec"].update(strategy={"type": "RollingUpdate"}),
    ),
    ("single_writer", lambda all_: named(all_, "Deployment", "feeds")["spec"].update(replicas=2)),
    ("feeds_shards", lambda all_: feeds_of(all_, "0,1")),
    ("feeds_shards", lambda all_: remove(all_, "Deployment", "feeds")),
    ("feeds_shards", lambda all_: all_.append(copy.deepcopy(named(all_, "Deployment", "feeds")))),
    (
        "engines",
        lambda all_: named(all_, "StatefulSet", "engine-0")["spec"].update(
            podManagementPolicy="OrderedReady"
        ),
    ),
    ("engines", lambda all_: pod(all_, "StatefulSet", "engine-0").pop("priorityClassName")),
]


@pytest.mark.parametrize(
    ("rule", "plant"), PLANTED, ids=[f"{rule}-{number}" for number, (rule, _) in enumerate(PLANTED)]
)
def test_a_planted_fault_is_found(rule: str, plant: Break) -> None:
    objects = rendered("production")
    plant(objects)
    assert rule in {violation.rule for violation in violations(objects)}


def test_headless_names_in_urls_and_single_addresses_are_found() -> None:
    """The arrangement of before: the only Service is headless, and the URL names it."""
    objects = rendered("local")
    remove(objects, "Service", "database")
    found = [text for rule, text in violations(objects) if rule == "addresses"]
    assert found == ["StatefulSet timescaledb: timescaledb-0 has 0 addresses that stay"]
    secret = next(
        each for each in of_kind(objects, "Secret") if each["metadata"]["name"] == "exchange-database"
    )
    secret["data"]["url"] = base64.b64encode(b"postgresql://exchange:x@timescaledb:5432/exchange").decode()
    assert "timescaledb is a name of a headless Service" in [text for _, text in violations(objects)]


def test_every_rule_has_a_fault_that_it_finds() -> None:
    assert {rule for rule, _ in PLANTED} == set(RULES)
