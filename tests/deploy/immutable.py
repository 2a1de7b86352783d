"""What `kubectl apply` of a changed overlay would be refused for: fields that the API lets nobody change.

The rules are those of the API server's validation of updates, for the kinds that the overlays use.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.deploy.rendered import Object

_STATEFUL_SET: Final = frozenset(
    {
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    }
)
"""What of a StatefulSet's spec may be changed; everything else may not."""
_JOB: Final = (
    "template",
    "selector",
    "completionMode",
    "podFailurePolicy",
    "backoffLimitPerIndex",
    "managedBy",
)


def refusals(before: Sequence[Object], after: Sequence[Object]) -> list[str]:
    """Return the immutable fields that differ between objects of one kind and name, a line each."""
    known = {_identity(each): each for each in before}
    return [
        f"{each['kind']} {each['metadata']['name']}: {field}"
        for each in after
        if _identity(each) in known
        for field in _changed(known[_identity(each)], each)
    ]


def add_defaults_of_claims(spec: dict[str, Any]) -> None:
    """Add to a StatefulSet's claims what the API adds."""
    for claim in spec.get("volumeClaimTemplates", []):
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        claim.setdefault("status", {"phase": "Pending"})
        claim["spec"].setdefault("volumeMode", "Filesystem")


def _identity(value: Object) -> tuple[str, str, str]:
    return value["kind"], value["metadata"].get("namespace", ""), value["metadata"]["name"]


def _changed(before: Object, after: Object) -> Iterator[str]:
    old, new = copy.deepcopy(before.get("spec", {})), copy.deepcopy(after.get("spec", {}))
    match after["kind"]:
        case "Job":
            yield from (f"spec.{name}" for name in _JOB if old.get(name) != new.get(name))
        case "StatefulSet":
            add_defaults_of_claims(old)
            add_defaults_of_claims(new)
            names = sorted((old.keys() | new.keys()) - _STATEFUL_SET)
            yield from (f"spec.{name}" for name in names if old.get(name) != new.get(name))
        case "Deployment":
            yield from ["spec.selector"] * (old["selector"] != new["selector"])
        case "Service":
            # An address that was given stays, and one that is not named is kept. So a headless Service
            # silently stays headless.
            yield from ["spec.clusterIP"] * (
                (old.get("clusterIP") == "None") != (new.get("clusterIP") == "None")
            )
        case "PersistentVolumeClaim":
            yield from ["spec"] * (_without_size(old) != _without_size(new))
        case "PriorityClass":
            yield from (name for name in ("value", "preemptionPolicy") if before.get(name) != after.get(name))
        case "ConfigMap" | "Secret":
            if before.get("immutable") and before.get("data") != after.get("data"):
                yield "data"
            if before.get("type", "Opaque") != after.get("type", "Opaque"):
                yield "type"


def _without_size(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "resources"}
