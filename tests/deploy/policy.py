"""What every workload must have to be safe and to stay available: a list of objects in, a list of violations
out."""

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from runtime.settings import PREFIX, load_settings
from tests.deploy.cluster import POD_NAME, Pod, pods, replicas_min, scalers, selects, serves, target_of
from tests.deploy.rendered import Object, of_kind

APART: Final = frozenset({"engine", "redis", "sentinel"})
"""Where two on one node would be as good as one: anti-affinity, or as even as the nodes are
(test_scheduling.py)."""
SERVERS: Final = frozenset({"redis", "redis-cache", "sentinel", "timescaledb"})
"""What processes connect to by name, and is there once under each name."""
PATIENCE_S: Final = 60
PATIENCE_RETRIES: Final = 6
DRAIN_S: Final = {
    "gateway.main": 6,
    "ws_edge.main": 13,
    "engine_worker.main": 15,
    "persist.main": 15,
    "feeds.main": 5,
}
"""What a process may need from SIGTERM to its end, at least: test_agree.py compares the first two with the
code's own limits."""
_SECRET_NAME: Final = re.compile(
    r"PASSWORD|SECRET|TOKEN|(MASTER|OPERATOR|TREASURY|FAUCET)_KEY$|PRIVATE|CREDENTIAL", re.IGNORECASE
)
_CREDENTIALS: Final = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
_NAMES_A_FILE: Final = "_FILE"
_SHARD_COUNT: Final = f"{PREFIX}SHARD_COUNT"


class Violation(NamedTuple):
    """A rule that is broken, and by whom."""

    rule: str
    text: str


Rule = Callable[[Sequence[Object]], Iterator[str]]


def violations(objects: Sequence[Object]) -> list[Violation]:
    """Return everything that is wrong."""
    return [Violation(name, text) for name, rule in RULES.items() for text in rule(objects)]


def _unprivileged(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield pod.says("may run as root")
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield pod.says("has no seccomp profile")
        if any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield pod.says("shares the node's network or processes")
        if any("hostPath" in volume for volume in pod.spec.get("volumes", [])):
            yield pod.says("sees the node's files")
        for container in pod.all_containers:
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                yield pod.says(f"{container['name']} may gain privileges")
            capabilities = own.get("capabilities", {})
            if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
                yield pod.says(f"{container['name']} has capabilities")
            if own.get("runAsUser") == 0 or own.get("runAsNonRoot") is False:
                yield pod.says(f"{container['name']} runs as root")


def _read_only_root(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        for container in pod.all_containers:
            if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
                yield pod.says(f"{container['name']} may write to its own program")


def _image_tag(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        for container in pod.all_containers:
            name, _, tag = container["image"].rpartition("/")[2].partition("@")[0].partition(":")
            if "@sha256:" not in container["image"] and tag in ("", "latest"):
                yield pod.says(f"{container['name']} runs whatever {name} is just now")


def _resources(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        for container in pod.all_containers:
            resources = container.get("resources", {})
            for part in ("requests", "limits"):
                if missing := {"cpu", "memory"} - resources.get(part, {}).keys():
                    yield pod.says(f"{container['name']} has no {part} of {' and '.join(sorted(missing))}")


def _probes(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        if pod.ends:
            continue
        for container in pod.containers:
            probes = {kind: container.get(f"{kind}Probe") for kind in ("startup", "liveness", "readiness")}
            for kind in (kind for kind, probe in probes.items() if not probe):
                yield pod.says(f"{container['name']} has no {kind} probe")
            if not all(probes.values()):
                continue
            if "exchange/process" in pod.labels:
                paths = {kind: (probe or {}).get("httpGet", {}).get("path") for kind, probe in probes.items()}
                if paths != {"startup": "/readyz", "liveness": "/livez", "readiness": "/readyz"}:
                    yield pod.says(f"{container['name']} is asked {paths}")
            if (probes["readiness"] or {}).keys() & {"tcpSocket"}:
                yield pod.says(f"{container['name']} counts as ready as soon as it listens")


def _disruption_budget(objects: Sequence[Object]) -> Iterator[str]:
    budgets = of_kind(objects, "PodDisruptionBudget")
    for pod in pods(objects):
        if pod.ends or replicas_min(objects, pod) < 2:
            continue
        found = [each["spec"] for each in budgets if selects(each["spec"]["selector"], pod.labels)]
        if len(found) != 1:
            yield pod.says(f"has {len(found)} disruption budgets")
        elif found[0].get("maxUnavailable") == 0 or found[0].get("minAvailable", 0) == replicas_min(
            objects, pod
        ):
            yield pod.says("can never be moved from a node")


def _apart(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        if pod.ends or replicas_min(objects, pod) < 2:
            continue
        affinity = pod.spec.get("affinity", {}).get("podAntiAffinity", {})
        terms = [
            *affinity.get("requiredDuringSchedulingIgnoredDuringExecution", []),
            *(
                each["podAffinityTerm"]
                for each in affinity.get("preferredDuringSchedulingIgnoredDuringExecution", [])
            ),
        ]
        terms += [
            each
            for each in pod.spec.get("topologySpreadConstraints", [])
            if pod.labels.get("app.kubernetes.io/name") not in APART
            or (each["whenUnsatisfiable"], each["maxSkew"]) == ("DoNotSchedule", 1)
        ]
        nodes = [each for each in terms if each["topologyKey"] == "kubernetes.io/hostname"]
        if not any(selects(each["labelSelector"], pod.labels) for each in nodes):
            yield pod.says("may have all of its pods on one node")


def _network(objects: Sequence[Object]) -> Iterator[str]:
    policies = [each["spec"] for each in of_kind(objects, "NetworkPolicy")]
    for direction in ("Ingress", "Egress"):
        denying = [
            each["podSelector"]
            for each in policies
            if direction in each["policyTypes"] and not each.get(direction.lower())
        ]
        if {} not in denying:
            yield f"nothing denies {direction.lower()} by default"
        for pod in pods(objects):
            if not any(
                selects(each["podSelector"], pod.labels)
                for each in policies
                if direction in each["policyTypes"]
            ):
                yield pod.says(f"is selected by no policy for {direction.lower()}")
    for each in policies:
        for rule in (*each.get("ingress", []), *each.get("egress", [])):
            if not rule.get("ports"):
                yield f"a policy for {each['podSelector']} opens every port"


def _token(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield pod.says("has a token of the cluster's API")
        if pod.spec.get("serviceAccountName", "default") == "default":
            yield pod.says("runs under the namespace's default account")
    for account in of_kind(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount {account['metadata']['name']}: hands out tokens"


def _service_links(objects: Sequence[Object]) -> Iterator[str]:
    # Of a Service called exchange-…, EXCHANGE_…_SERVICE_HOST: an unknown setting, at which no process of ours
    # starts.
    for pod in pods(objects):
        if pod.spec.get("enableServiceLinks") is not False:
            yield pod.says("gets variables of every Service")


def _secret_values(objects: Sequence[Object]) -> Iterator[str]:
    def is_secret(name: str, value: str) -> bool:
        return bool(_CREDENTIALS.search(value)) or (
            bool(_SECRET_NAME.search(name)) and not name.endswith(_NAMES_A_FILE) and bool(value)
        )

    for each in of_kind(objects, "ConfigMap"):
        for name, value in each.get("data", {}).items():
            if is_secret(name.partition(".")[0], value) and not value.startswith("#!"):
                yield f"ConfigMap {each['metadata']['name']}: {name} holds a secret"
    for pod in pods(objects):
        for container in pod.all_containers:
            for variable in container.get("env", []):
                if is_secret(variable["name"], variable.get("value", "")):
                    yield pod.says(f"{variable['name']} holds a secret")
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    yield pod.says(f"{variable['name']} is a secret in the environment; mount it as a file")
            if any("secretRef" in source for source in container.get("envFrom", [])):
                yield pod.says("has a whole Secret in its environment; mount it as files")


def _grace(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        if pod.ends:
            continue
        grace = pod.spec.get("terminationGracePeriodSeconds")
        if grace is None:
            yield pod.says("has the default time to end")
            continue
        for container in pod.containers:
            sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            drain = next((DRAIN_S[word] for word in container.get("command", []) if word in DRAIN_S), 0)
            if grace < sleep + drain:
                yield pod.says(f"is killed after {grace} s, and needs {sleep + drain}")


def _drained(objects: Sequence[Object]) -> Iterator[str]:
    """Who serves clients goes on until nobody is sent to it any more, and a rollout never has fewer than
    before."""
    for pod in pods(objects):
        if not any(serves(each, pod) and not _is_address(each) for each in of_kind(objects, "Service")):
            continue
        if not all(each.get("lifecycle", {}).get("preStop") for each in pod.containers):
            yield pod.says("leaves while clients are still sent to it")
        rolling = pod.workload["spec"].get("strategy", {}).get("rollingUpdate", {})
        if pod.kind != "Deployment" or rolling.get("maxUnavailable") != 0:
            yield pod.says("has fewer pods than it should during a rollout")


def _is_address(service: Object) -> bool:
    """Return whether a Service only gives names or an address to servers that nobody else can stand in for:
    Redis, the database."""
    spec = service["spec"]
    return spec.get("clusterIP") == "None" or spec.get("publishNotReadyAddresses") is True


def _addresses(objects: Sequence[Object]) -> Iterator[str]:
    """Each server has an address that stays.

    A headless Service's names are remembered by DNS caches, present or absent, for 30 s.
    """
    services = of_kind(objects, "Service")
    headless = {each["metadata"]["name"] for each in services if each["spec"].get("clusterIP") == "None"}
    for pod in pods(objects):
        if pod.labels.get("app.kubernetes.io/name") not in SERVERS:
            continue
        found = [each for each in services if serves(each, pod) and each["metadata"]["name"] not in headless]
        leads_to = [each["spec"]["selector"].get(POD_NAME, " ".join(pod.names)) for each in found]
        for name in pod.names:
            if leads_to.count(name) != 1:
                yield pod.says(f"{name} has {leads_to.count(name)} addresses that stay")
        for each in found:
            if each["spec"].get("publishNotReadyAddresses") is not True:
                yield (
                    f"Service {each['metadata']['name']}: a server that has returned is not reached before "
                    "its readiness probe passes"
                )
    for text in _hosts(objects):
        for host in re.findall(r"[\w.-]+", text):
            if host.rpartition(".")[2] in headless:
                yield f"{host} is a name of a headless Service"


def _hosts(objects: Sequence[Object]) -> Iterator[str]:
    """Yield what tells processes where servers are: URLs in Secrets, and the variables of the start
    scripts.
    """
    for each in of_kind(objects, "Secret"):
        for key, value in each.get("data", {}).items():
            if key == "url":
                yield urlsplit(base64.b64decode(value).decode()).netloc.rpartition("@")[2]
    for pod in pods(objects):
        for container in pod.containers:
            yield from (
                each.get("value", "")
                for each in container.get("env", [])
                if each["name"] in ("NODES", "SENTINELS")
            )


def _first_start(objects: Sequence[Object]) -> Iterator[str]:
    """A slow pull of an image, or a database that is slow to start, ends nothing for good, and nobody serves
    without a schema."""
    for pod in pods(objects):
        spec = pod.workload["spec"]
        if pod.kind == "Job" and (
            "activeDeadlineSeconds" in spec or spec.get("backoffLimit", 6) < PATIENCE_RETRIES
        ):
            yield pod.says("gives up while the cluster is still starting")
        if not pod.ends and pod.labels.get("exchange/database") == "client":
            commands = [each["command"][-1] for each in pod.spec.get("initContainers", [])]
            if commands != ["await"]:
                yield pod.says("does not wait for the schema")
        for container in [] if pod.ends else pod.containers:
            probe = container.get("startupProbe", {})
            if probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3) < PATIENCE_S:
                yield pod.says(f"{container['name']} is killed while it starts")


def _scaled(objects: Sequence[Object]) -> Iterator[str]:
    # Every `kubectl apply` would set it back.
    scaled = [target_of(each) for each in scalers(objects)]
    for pod in pods(objects):
        if (pod.kind, pod.name) in scaled and "replicas" in pod.workload["spec"]:
            yield pod.says("is scaled, and says how many it has")
    for target in {each for each in scaled if scaled.count(each) > 1}:
        yield f"{target[0]} {target[1]}: two scalers quarrel about it"


def _namespace(objects: Sequence[Object]) -> Iterator[str]:
    for each in of_kind(objects, "Namespace"):
        for mode in ("enforce", "audit", "warn"):
            if each["metadata"].get("labels", {}).get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"Namespace {each['metadata']['name']}: {mode} is not restricted"
    names = {each["metadata"]["name"] for each in of_kind(objects, "Namespace")}
    for each in objects:
        if (
            each["kind"] not in ("Namespace", "PriorityClass")
            and each["metadata"].get("namespace") not in names
        ):
            yield f"{each['kind']} {each['metadata']['name']}: is in a namespace that nobody makes"


def _single_writer(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        if "feeds.main" in _words(pod) and (
            pod.workload["spec"].get("strategy", {}).get("type") != "Recreate"
            or replicas_min(objects, pod) != 1
        ):
            yield pod.says("there may be two, which take each other's place")


def _feeds_shards(objects: Sequence[Object]) -> Iterator[str]:
    (settings,) = (
        each["data"]
        for each in of_kind(objects, "ConfigMap")
        if each["metadata"]["name"].startswith("settings")
    )
    followed: Counter[int] = Counter()
    for pod in pods(objects):
        if "feeds.main" not in _words(pod):
            continue
        own = {
            each["name"]: each["value"] for container in pod.containers for each in container.get("env", [])
        }
        chosen = {name: value for name, value in own.items() if name == f"{PREFIX}FEEDS_SHARDS"}
        followed.update(load_settings({_SHARD_COUNT: settings[_SHARD_COUNT], **chosen}).shards_of_feeds())
    for shard in range(int(settings[_SHARD_COUNT])):
        if followed[shard] != 1:
            yield f"shard {shard}: {followed[shard]} feeds processes follow it"


def _engines(objects: Sequence[Object]) -> Iterator[str]:
    for pod in pods(objects):
        if "engine_worker.main" not in _words(pod):
            continue
        if pod.kind != "StatefulSet" or pod.workload["spec"].get("podManagementPolicy") != "Parallel":
            yield pod.says("a standby would wait for the other to be ready")
        if not pod.spec.get("priorityClassName"):
            yield pod.says("makes room for anybody")


def _words(pod: Pod) -> list[str]:
    return [word for container in pod.containers for word in container.get("command", [])]


RULES: Final[Mapping[str, Rule]] = {
    "unprivileged": _unprivileged,
    "read_only_root": _read_only_root,
    "image_tag": _image_tag,
    "resources": _resources,
    "probes": _probes,
    "disruption_budget": _disruption_budget,
    "apart": _apart,
    "network": _network,
    "token": _token,
    "service_links": _service_links,
    "secret_values": _secret_values,
    "grace": _grace,
    "drained": _drained,
    "addresses": _addresses,
    "first_start": _first_start,
    "scaled": _scaled,
    "namespace": _namespace,
    "single_writer": _single_writer,
    "feeds_shards": _feeds_shards,
    "engines": _engines,
}
