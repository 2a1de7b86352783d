"""A scheduler's view of an overlay: which pods there are, and on which nodes they fit.

It knows what the overlays use: requests, node selectors, required anti-affinity of pods, and spread
constraints that must be kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tests.deploy.cluster import Pod, pods, replicas_min, selects
from tests.deploy.rendered import Object

HOSTNAME: Final = "kubernetes.io/hostname"
_UNITS: Final = {"m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "": 1.0}


class Node(NamedTuple):
    """A machine of the cluster, as large as what may be asked of it."""

    name: str
    cpu: float
    memory: float

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that every node has."""
        return {HOSTNAME: self.name, "kubernetes.io/os": "linux"}


class Task(NamedTuple):
    """One pod that is to be placed."""

    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    cpu: float
    memory: float


class Placement(NamedTuple):
    """Where pods are, and which ones stay Pending."""

    nodes: Mapping[str, list[Task]]
    pending: list[str]


def quantity(text: str | int) -> float:
    """Return a quantity of the Kubernetes API as a number."""
    digits = str(text).rstrip("mKiMG")
    return float(digits) * _UNITS[str(text)[len(digits) :]]


def tasks(objects: Sequence[Object]) -> Iterator[Task]:
    """Yield every pod that an overlay runs for good, those of operators too."""
    for pod in pods(objects):
        if not pod.ends:
            for number in range(replicas_min(objects, pod)):
                yield _task(f"{pod.name}-{number}", pod)
    for each in objects:
        if each["apiVersion"].startswith("postgresql.cnpg.io/") and each["kind"] == "Cluster":
            yield from _database(each)


def _task(name: str, pod: Pod) -> Task:
    requests = [each["resources"]["requests"] for each in pod.containers]
    return Task(
        name,
        pod.labels,
        pod.spec,
        sum(quantity(each["cpu"]) for each in requests),
        sum(quantity(each["memory"]) for each in requests),
    )


def _database(cluster: Object) -> Iterator[Task]:
    """CloudNativePG makes pods with the label `cnpg.io/cluster`, and anti-affinity by it."""
    spec, labels = cluster["spec"], {"cnpg.io/cluster": cluster["metadata"]["name"]}
    requests = spec["resources"]["requests"]
    term = {"topologyKey": spec["affinity"]["topologyKey"], "labelSelector": {"matchLabels": labels}}
    kind = spec["affinity"]["podAntiAffinityType"]
    affinity = {"podAntiAffinity": {f"{kind}DuringSchedulingIgnoredDuringExecution": [term]}}
    for number in range(1, spec["instances"] + 1):
        name = f"{cluster['metadata']['name']}-{number}"
        yield Task(
            name, labels, {"affinity": affinity}, quantity(requests["cpu"]), quantity(requests["memory"])
        )


def place(objects: Sequence[Object], nodes: Sequence[Node]) -> Placement:
    """Place every pod as the default scheduler does: the largest first, each on the node with the most CPU
    left that it may go to."""
    placed: dict[str, list[Task]] = {node.name: [] for node in nodes}
    pending = []
    for task in sorted(tasks(objects), key=lambda each: -each.cpu):
        fitting = [node for node in nodes if _fits(task, node, placed)]
        if not fitting:
            pending.append(task.name)
            continue
        best = max(fitting, key=lambda node: node.cpu - sum(each.cpu for each in placed[node.name]))
        placed[best.name].append(task)
    return Placement(placed, pending)


def may_share_a_node(task: Task, other: Task) -> bool:
    """Return whether neither pod keeps the other one from its node."""
    return not (_refuses(task, other) or _refuses(other, task))


def _refuses(task: Task, other: Task) -> bool:
    terms = task.spec.get("affinity", {}).get("podAntiAffinity", {})
    return any(
        each["topologyKey"] == HOSTNAME and selects(each["labelSelector"], other.labels)
        for each in terms.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    )


def _fits(task: Task, node: Node, placed: Mapping[str, list[Task]]) -> bool:
    there = placed[node.name]
    return (
        node.cpu >= task.cpu + sum(each.cpu for each in there)
        and node.memory >= task.memory + sum(each.memory for each in there)
        and all(node.labels.get(key) == value for key, value in task.spec.get("nodeSelector", {}).items())
        and all(may_share_a_node(task, each) for each in there)
        and all(
            _keeps_even(task, node, placed, each) for each in task.spec.get("topologySpreadConstraints", [])
        )
    )


def _keeps_even(
    task: Task, node: Node, placed: Mapping[str, list[Task]], constraint: Mapping[str, Any]
) -> bool:
    if constraint["whenUnsatisfiable"] != "DoNotSchedule" or constraint["topologyKey"] != HOSTNAME:
        return True
    counts = {
        name: sum(selects(constraint["labelSelector"], each.labels) for each in there)
        for name, there in placed.items()
    }
    itself = selects(constraint["labelSelector"], task.labels)
    skew_max: int = constraint["maxSkew"]
    return counts[node.name] + itself - min(counts.values()) <= skew_max
