"""Whether what a list of objects names is there: a list of objects in, a list of what is missing out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.deploy.cluster import pods, scalers, selects, serves, target_of
from tests.deploy.rendered import Object, of_kind

OTHERS: Final = frozenset({"cnpg.io/cluster"})
"""Labels of pods that operators make."""


def missing(objects: Sequence[Object], secrets: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Return what is named and not there; `secrets` (name → keys) are made by hand or by operators."""
    return [
        *_services(objects),
        *_ingresses(objects),
        *_targets(objects),
        *_policies(objects),
        *_files(objects, secrets or {}),
        *_pods(objects),
        *_monitors(objects),
    ]


def _services(objects: Sequence[Object]) -> Iterator[str]:
    for service in of_kind(objects, "Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        found = [pod for pod in pods(objects) if serves(service, pod)]
        if not found:
            yield f"Service {name}: selects no pods"
        for port in spec["ports"]:
            for pod in found:
                if port["targetPort"] not in (*pod.ports, *pod.ports.values()):
                    yield f"Service {name}: {pod.name} has no port {port['targetPort']}"


def _ingresses(objects: Sequence[Object]) -> Iterator[str]:
    services = {each["metadata"]["name"]: each["spec"]["ports"] for each in of_kind(objects, "Service")}
    for ingress in of_kind(objects, "Ingress"):
        hosts = {host for each in ingress["spec"].get("tls", []) for host in each["hosts"]}
        for rule in ingress["spec"]["rules"]:
            if rule["host"] not in hosts:
                yield f"Ingress {ingress['metadata']['name']}: {rule['host']} is served without TLS"
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                ports = [port["name"] for port in services.get(backend["name"], [])]
                if backend["port"]["name"] not in ports:
                    yield (
                        f"Ingress {ingress['metadata']['name']}: {path['path']} leads to no port of "
                        f"{backend['name']}"
                    )


def _targets(objects: Sequence[Object]) -> Iterator[str]:
    workloads = {(pod.kind, pod.name) for pod in pods(objects)}
    for each in scalers(objects):
        if target_of(each) not in workloads:
            yield f"{each['kind']} {each['metadata']['name']}: there is no {' '.join(target_of(each))}"
    for each in of_kind(objects, "PodDisruptionBudget"):
        if not any(selects(each["spec"]["selector"], pod.labels) for pod in pods(objects)):
            yield f"PodDisruptionBudget {each['metadata']['name']}: selects no pods"


def _policies(objects: Sequence[Object]) -> Iterator[str]:
    every = list(pods(objects))
    for policy in of_kind(objects, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        ours = [pod for pod in every if selects(spec["podSelector"], pod.labels)]
        if not ours and not _is_of_others(spec["podSelector"]):
            yield f"NetworkPolicy {name}: selects no pods"
        for side, rules in (("from", spec.get("ingress", [])), ("to", spec.get("egress", []))):
            for rule in rules:
                peers = [peer for peer in rule.get(side, []) if "ipBlock" not in peer]
                theirs = [
                    pod
                    for pod in every
                    if any(
                        "namespaceSelector" not in peer and selects(peer["podSelector"], pod.labels)
                        for peer in peers
                    )
                ]
                for peer in (peer for peer in peers if "namespaceSelector" not in peer):
                    if not any(
                        selects(peer["podSelector"], pod.labels) for pod in every
                    ) and not _is_of_others(peer["podSelector"]):
                        yield f"NetworkPolicy {name}: there is no {peer['podSelector']}"
                listening = ours if side == "from" else theirs
                for port in (each["port"] for each in rule.get("ports", []) if listening):
                    if not any(port in pod.ports.values() for pod in listening):
                        yield f"NetworkPolicy {name}: nobody listens on {port}"


def _is_of_others(selector: Mapping[str, Any]) -> bool:
    return bool(OTHERS & selector.get("matchLabels", {}).keys())


def _files(objects: Sequence[Object], secrets: Mapping[str, Sequence[str]]) -> Iterator[str]:
    there: dict[tuple[str, str], set[str]] = {("Secret", name): set(keys) for name, keys in secrets.items()}
    for each in of_kind(objects, "ConfigMap", "Secret"):
        keys = {*each.get("data", {}), *each.get("stringData", {})}
        there[each["kind"], each["metadata"]["name"]] = keys
    used: set[tuple[str, str]] = set()

    def check(owner: str, kind: str, name: str, keys: Sequence[str]) -> Iterator[str]:
        used.add((kind, name))
        if (kind, name) not in there:
            yield f"{owner}: there is no {kind} {name}"
        elif absent := set(keys) - there[kind, name]:
            yield f"{owner}: {kind} {name} has no {', '.join(sorted(absent))}"

    for pod in pods(objects):
        for volume in pod.spec.get("volumes", []):
            if "configMap" in volume:
                source = volume["configMap"]
                yield from check(pod.name, "ConfigMap", source["name"], _keys(source))
            if "secret" in volume:
                source = volume["secret"]
                yield from check(pod.name, "Secret", source["secretName"], _keys(source))
        for container in pod.all_containers:
            for source in container.get("envFrom", []):
                yield from check(pod.name, "ConfigMap", source["configMapRef"]["name"], ())
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
                    yield from check(pod.name, "ConfigMap", reference["name"], [reference["key"]])
    for ingress in of_kind(objects, "Ingress"):
        for each in ingress["spec"]["tls"]:
            if "secretName" in each:
                yield from check(
                    ingress["metadata"]["name"], "Secret", each["secretName"], ["tls.crt", "tls.key"]
                )
    for store in of_kind(objects, "ObjectStore"):
        for reference in store["spec"]["configuration"]["s3Credentials"].values():
            yield from check(store["metadata"]["name"], "Secret", reference["name"], [reference["key"]])
    # Grafana looks for dashboards by their label.
    used |= {
        (each["kind"], each["metadata"]["name"])
        for each in of_kind(objects, "ConfigMap")
        if "grafana_dashboard" in each["metadata"].get("labels", {})
    }
    for kind, name in there.keys() - used:
        yield f"{kind} {name}: nobody uses it"


def _keys(source: Mapping[str, Any]) -> list[str]:
    return [item["key"] for item in source.get("items", [])]


def _pods(objects: Sequence[Object]) -> Iterator[str]:
    def names(kind: str) -> set[str]:
        return {each["metadata"]["name"] for each in of_kind(objects, kind)}

    for pod in pods(objects):
        if not selects(pod.workload["spec"].get("selector", {}), pod.labels):
            yield f"{pod.name}: does not select its own pods"
        if pod.spec.get("serviceAccountName", "default") not in names("ServiceAccount"):
            yield f"{pod.name}: there is no ServiceAccount {pod.spec.get('serviceAccountName')}"
        if pod.spec.get("priorityClassName") not in (None, *names("PriorityClass")):
            yield f"{pod.name}: there is no PriorityClass {pod.spec['priorityClassName']}"
        if pod.kind == "StatefulSet" and pod.workload["spec"]["serviceName"] not in names("Service"):
            yield f"{pod.name}: there is no Service {pod.workload['spec']['serviceName']}"
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        volumes |= {each["metadata"]["name"] for each in pod.workload["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for each in pod.all_containers for mount in each.get("volumeMounts", [])}
        if mounted != volumes:
            yield f"{pod.name}: volumes and mounts differ: {', '.join(sorted(mounted ^ volumes))}"
        for container in pod.all_containers:
            own = {port["name"] for port in container.get("ports", [])}
            for kind in ("startup", "liveness", "readiness"):
                probe = container.get(f"{kind}Probe", {})
                port = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
                if port is not None and port not in own:
                    yield f"{pod.name}: its {kind} probe asks port {port}, which it has not"


def _monitors(objects: Sequence[Object]) -> Iterator[str]:
    for monitor in of_kind(objects, "PodMonitor"):
        found = [pod for pod in pods(objects) if selects(monitor["spec"]["selector"], pod.labels)]
        if not found:
            yield f"PodMonitor {monitor['metadata']['name']}: selects no pods"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for pod in found:
                if endpoint["port"] not in pod.ports:
                    yield (
                        f"PodMonitor {monitor['metadata']['name']}: {pod.name} has no port {endpoint['port']}"
                    )
