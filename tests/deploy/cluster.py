"""What the checks ask about a list of objects: pods, what selects them, and who may speak to whom."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Final, NamedTuple

from tests.deploy.rendered import Object, of_kind

WORKLOAD_KINDS: Final = ("Deployment", "StatefulSet", "Job", "CronJob")
ENDING_KINDS: Final = ("Job", "CronJob")
"""Whose pods do their work and end."""
POD_NAME: Final = "statefulset.kubernetes.io/pod-name"
"""The label that the controller gives to each pod of a StatefulSet."""


class Pod(NamedTuple):
    """The pods of one workload."""

    workload: Object
    kind: str
    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def ends(self) -> bool:
        """Whether the pods do their work and end."""
        return self.kind in ENDING_KINDS

    @property
    def names(self) -> list[str]:
        """The names of the pods of a StatefulSet, which have names that stay; empty for others."""
        count = self.workload["spec"].get("replicas", 1) if self.kind == "StatefulSet" else 0
        return [f"{self.name}-{number}" for number in range(count)]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """The containers that stay."""
        return list(self.spec["containers"])

    @property
    def all_containers(self) -> list[Mapping[str, Any]]:
        """The containers, with those that come first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """The ports, by name."""
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", [])
        }

    def says(self, text: str) -> str:
        """Return a sentence about this workload."""
        return f"{self.kind} {self.name}: {text}"


def pods(objects: Sequence[Object]) -> Iterator[Pod]:
    """Yield the pods of every workload."""
    for each in of_kind(objects, *WORKLOAD_KINDS):
        # A CronJob has a Job within.
        template = each["spec"].get("jobTemplate", each)["spec"]["template"]
        yield Pod(
            each,
            each["kind"],
            each["metadata"]["name"],
            template["metadata"].get("labels", {}),
            template["spec"],
        )


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector takes these labels; an empty one takes all, none takes nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        value, values = labels.get(expression["key"]), expression.get("values", [])
        matches = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not matches[expression["operator"]]:
            return False
    return True


def serves(service: Object, pod: Pod) -> bool:
    """Return whether a Service leads to a pod of this workload."""
    labels: dict[str, str] = service["spec"]["selector"]
    if POD_NAME in labels and labels[POD_NAME] not in pod.names:
        return False
    return selects(
        {"matchLabels": {key: value for key, value in labels.items() if key != POD_NAME}}, pod.labels
    )


def replicas_min(objects: Sequence[Object], pod: Pod) -> int:
    """Return how many pods a workload has at least."""
    for each in scalers(objects):
        if target_of(each) == (pod.kind, pod.name):
            spec = each["spec"]
            return int(spec.get("minReplicas", spec.get("minReplicaCount", 1)))
    return int(pod.workload["spec"].get("replicas", 1))


def scalers(objects: Sequence[Object]) -> list[Object]:
    """Return what decides about the number of pods."""
    return of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")


def target_of(scaler: Object) -> tuple[str, str]:
    """Return kind and name of what a scaler scales."""
    reference = scaler["spec"]["scaleTargetRef"]
    return reference.get("kind", "Deployment"), reference["name"]


class Peer(NamedTuple):
    """Somebody at one end of a connection: a pod of ours, or with other labels, of a namespace."""

    labels: Mapping[str, str]
    namespace: str
    address: str = ""
    """Of somebody who is no pod, and whom no selector can name."""


def may_connect(
    objects: Sequence[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Return whether the NetworkPolicies of `objects` let `source` connect to a port of `target`, as the API
    defines it."""
    return _lets(objects, source, target, port, protocol, "Egress") and _lets(
        objects, target, source, port, protocol, "Ingress"
    )


def _lets(
    objects: Sequence[Object], end: Peer, other: Peer, port: int, protocol: str, direction: str
) -> bool:
    isolated = False
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        if policy["metadata"]["namespace"] != end.namespace or not selects(spec["podSelector"], end.labels):
            continue
        if direction not in spec["policyTypes"]:
            continue
        isolated = True
        sides, rules = (
            ("to", spec.get("egress", [])) if direction == "Egress" else ("from", spec.get("ingress", []))
        )
        for rule in rules:
            if _has_port(rule.get("ports"), port, protocol) and _has_peer(
                rule.get(sides), end.namespace, other
            ):
                return True
    return not isolated


def _has_port(ports: Sequence[Mapping[str, Any]] | None, port: int, protocol: str) -> bool:
    return not ports or any((each.get("protocol", "TCP"), each["port"]) == (protocol, port) for each in ports)


def _has_peer(peers: Sequence[Mapping[str, Any]] | None, namespace: str, other: Peer) -> bool:
    if not peers:
        return True
    for peer in peers:
        if "ipBlock" in peer or other.address:
            block = peer.get("ipBlock", {}).get("cidr")
            if block and other.address and ip_address(other.address) in ip_network(block):
                return True
            continue
        if "namespaceSelector" in peer:
            is_there = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
        else:
            is_there = namespace == other.namespace
        if is_there and ("podSelector" not in peer or selects(peer["podSelector"], other.labels)):
            return True
    return False
