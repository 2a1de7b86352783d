"""Every function's path leads, through the Ingress, to a gateway that mounts it: the routing, derived from
the code's own catalogue."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from functions.api.function import Group, Security
from functions.catalog import FUNCTIONS
from tests.deploy.cluster import Pod, pods, selects
from tests.deploy.rendered import ROOT, Object, named, of_kind, rendered
from ws_edge.subscriptions import Door, parse_target

WITH_INGRESS: Final = ("local", "production")


def backend_of(objects: Sequence[Object], path: str) -> Pod:
    """Return the pods that a path leads to, as an Ingress with paths of type Prefix defines it: whole
    elements, the longest first."""
    (ingress,) = of_kind(objects, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    elements = path.strip("/").split("/")
    fitting = [
        each
        for each in rule["http"]["paths"]
        if each["pathType"] == "Prefix"
        and (wanted := [element for element in each["path"].split("/") if element]) == elements[: len(wanted)]
    ]
    backend = max(fitting, key=lambda each: len(each["path"]))["backend"]["service"]
    service = named(objects, "Service", backend["name"])
    (found,) = (
        pod for pod in pods(objects) if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)
    )
    return found


def groups_of(pod: Pod) -> frozenset[str]:
    """Return the groups that a gateway mounts; what is no gateway mounts none."""
    if "gateway.main" not in pod.containers[0].get("command", []):
        return frozenset()
    (value,) = (each["value"] for each in pod.containers[0]["env"] if each["name"] == "EXCHANGE_FUNCTIONS")
    return frozenset(value.split(","))


def astray(objects: Sequence[Object]) -> list[str]:
    """Return the functions that are not where their path leads."""
    return [
        f"{each.method} {each.path}: {backend_of(objects, each.path).name} does not mount {each.group}"
        for each in FUNCTIONS
        if each.group not in groups_of(backend_of(objects, each.path))
    ]


@pytest.mark.parametrize("overlay", WITH_INGRESS)
def test_every_function_is_where_its_path_leads(overlay: str) -> None:
    objects = rendered(overlay)
    assert astray(objects) == []
    assert {group for each in pods(objects) for group in groups_of(each)} == set(Group)


@pytest.mark.parametrize("overlay", WITH_INGRESS)
@pytest.mark.parametrize("path", ["/ws", "/ws/btcusdt@trade", "/stream", "/ws-api/v3"])
def test_websockets_lead_to_the_edge(overlay: str, path: str) -> None:
    target = parse_target(path)
    assert target is not None
    assert target.door in Door
    assert backend_of(rendered(overlay), path).name == "ws-edge"


@pytest.mark.parametrize("overlay", WITH_INGRESS)
@pytest.mark.parametrize("path", ["/", "/trade/BTCUSDT", "/_next/static/x.js", "/config.json"])
def test_pages_lead_to_the_frontend(overlay: str, path: str) -> None:
    assert backend_of(rendered(overlay), path).name == "frontend"


def paths(objects: list[Object]) -> list[dict[str, Any]]:
    (ingress,) = of_kind(objects, "Ingress")
    found: list[dict[str, Any]] = ingress["spec"]["rules"][0]["http"]["paths"]
    return found


def remount(objects: list[Object]) -> None:
    environment = named(objects, "Deployment", "gateway-account")["spec"]["template"]["spec"]["containers"][
        0
    ]["env"]
    next(each for each in environment if each["name"] == "EXCHANGE_FUNCTIONS")["value"] = "account"


@pytest.mark.parametrize(
    ("says", "break_it"),
    [
        (
            "POST /api/v3/order:",
            lambda all_: paths(all_).remove(
                next(each for each in paths(all_) if each["path"] == "/api/v3/order")
            ),
        ),
        (
            "GET /api/v3/depth:",
            lambda all_: next(each for each in paths(all_) if each["path"] == "/api/v3").update(
                path="/api/v3/d"
            ),
        ),
        ("POST /api/v1/signup:", remount),
    ],
)
def test_a_function_that_is_not_is_found(says: str, break_it: Callable[[list[Object]], object]) -> None:
    objects = rendered("local")
    break_it(objects)
    assert [text for text in astray(objects) if text.startswith(says)]


@pytest.mark.parametrize("overlay", ["local", "minimal", "production"])
def test_who_looks_at_keys_has_the_master_key(overlay: str) -> None:
    """And nobody else has: who needs it is in the catalogue."""
    with_keys = {
        each.group
        for each in FUNCTIONS
        if each.security in (Security.SIGNED, Security.API_KEY, Security.OWNER)
    }
    with_keys.add(Group.USERS)  # makes them
    for pod in pods(rendered(overlay)):
        holds = any(volume["name"] == "master-key" for volume in pod.spec.get("volumes", []))
        command = pod.containers[0].get("command", [])
        needs = "ws_edge.main" in command or bool(groups_of(pod) & with_keys)
        assert holds == needs, pod.name


@pytest.mark.parametrize("overlay", ["local", "minimal", "production"])
def test_every_shard_has_its_workers(overlay: str) -> None:
    objects = rendered(overlay)
    (settings,) = (
        each["data"]
        for each in of_kind(objects, "ConfigMap")
        if each["metadata"]["name"].startswith("settings")
    )
    shards = [
        pod.labels["exchange/shard"]
        for pod in pods(objects)
        if "engine_worker.main" in pod.containers[0].get("command", [])
    ]
    assert sorted(shards) == [str(shard) for shard in range(int(settings["EXCHANGE_SHARD_COUNT"]))]


def test_the_markets_are_those_of_the_program() -> None:
    """Kustomize reads no file outside of its folder, so there is a copy."""
    (markets,) = (
        each
        for each in of_kind(rendered("local"), "ConfigMap")
        if each["metadata"]["name"].startswith("markets")
    )
    assert markets["data"]["markets.toml"] == (ROOT / "protocol" / "markets.toml").read_text("utf-8")
