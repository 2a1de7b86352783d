"""What the manifests start, read from rendered Kubernetes objects and from a compose file as one kind of
thing."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from tests.deploy.cluster import Pod, pods, serves
from tests.deploy.rendered import Object, of_kind

UNKNOWN: Final = None
"""What a file holds that the manifests do not carry: a secret of production's, or one that is made on the
spot."""

_VARIABLE: Final = re.compile(r"\$(?:\$|\{(\w+)(?::?[-?]([^}]*))?\}|(\w+))")
_URL: Final = re.compile(r"https?://[\w.]+:\d+/\w*")


class Probe(NamedTuple):
    """A question whether a process is there."""

    port: int
    path: str


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One process of ours, as somebody's manifest wants it to run."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ports: frozenset[int] = frozenset()
    probes: frozenset[Probe] = frozenset()
    files: Mapping[str, str | None] = {}
    """What is at a path; None: not known here."""
    folders: frozenset[str] = frozenset()
    """Where something is mounted."""
    answers_to: frozenset[str] = frozenset()
    """Names under which other processes reach it."""
    finishes: bool = False
    """It does its work and ends: a job, or what a pod does first."""

    @property
    def module(self) -> str | None:
        """The module that `python -m` runs; None: this is no process of ours."""
        is_ours = self.command[:2] == ("python", "-m") and len(self.command) > 2
        return self.command[2] if is_ours else None


# Kubernetes


def of_kubernetes(objects: Sequence[Object]) -> Iterator[Workload]:
    """Yield everything that the pods run, what comes first included."""
    for pod in pods(objects):
        for container in pod.all_containers:
            yield Workload(
                name=pod.name if container in pod.containers else f"{pod.name}/{container['name']}",
                command=(*container.get("command", []), *container.get("args", [])),
                environment=_environment(objects, pod, container),
                ports=frozenset(port["containerPort"] for port in container.get("ports", [])),
                probes=frozenset(_http_probes(container)),
                files=_files(objects, pod, container),
                folders=frozenset(mount["mountPath"] for mount in container.get("volumeMounts", [])),
                answers_to=frozenset(_service_names(objects, pod)),
                finishes=pod.ends or container not in pod.containers,
            )


def _environment(objects: Sequence[Object], pod: Pod, container: Mapping[str, Any]) -> dict[str, str]:
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        values |= _data(objects, "ConfigMap", source["configMapRef"]["name"])
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            values[variable["name"]] = _field(pod, source["fieldRef"]["fieldPath"])
        elif "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            values[variable["name"]] = _data(objects, "ConfigMap", reference["name"])[reference["key"]]
        else:
            values[variable["name"]] = variable["value"]
    return values


def _field(pod: Pod, path: str) -> str:
    if path == "metadata.name":
        return f"{pod.name}-0"
    key = path.removeprefix("metadata.labels['").removesuffix("']")
    return pod.labels[key]


def _data(objects: Sequence[Object], kind: str, name: str) -> dict[str, str]:
    for each in of_kind(objects, kind):
        if each["metadata"]["name"] == name:
            encoded: dict[str, str] = each.get("data", {}) if kind == "Secret" else {}
            plain: dict[str, str] = each.get("stringData", {}) if kind == "Secret" else each.get("data", {})
            return {key: base64.b64decode(value).decode() for key, value in encoded.items()} | plain
    return {}


def _http_probes(container: Mapping[str, Any]) -> Iterator[Probe]:
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if get := container.get(kind, {}).get("httpGet"):
            yield Probe(ports.get(get["port"], get["port"]), get["path"])


def _files(objects: Sequence[Object], pod: Pod, container: Mapping[str, Any]) -> dict[str, str | None]:
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    found: dict[str, str | None] = {}
    for mount in container.get("volumeMounts", []):
        volume = volumes.get(mount["name"], {})
        for kind, field, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
            if field not in volume:
                continue
            data = _data(objects, kind, volume[field][name])
            items = {each["key"]: each["path"] for each in volume[field].get("items", [])} or {
                key: key for key in data
            }
            for key, path in items.items():
                found[str(PurePosixPath(mount["mountPath"]) / path)] = data.get(key, UNKNOWN)
    return found


def _service_names(objects: Sequence[Object], pod: Pod) -> Iterator[str]:
    for service in of_kind(objects, "Service"):
        if serves(service, pod):
            yield service["metadata"]["name"]


# Compose


def of_compose(
    document: Mapping[str, Any], image_environment: Mapping[str, str] | None = None
) -> Iterator[Workload]:
    """Yield the services of a compose file.

    `image_environment` is what an image that is built from the root folder brings along.
    """
    configs: Mapping[str, Any] = document.get("configs", {})
    for name, service in document["services"].items():
        command = service.get("command") or []
        environment = service.get("environment") or {}
        if isinstance(environment, list):
            environment = dict(each.partition("=")[::2] for each in environment)
        yield Workload(
            name=name,
            command=tuple(
                _filled_in(word) for word in (command.split() if isinstance(command, str) else command)
            ),
            environment={
                **(image_environment or {}),
                **{key: _filled_in(_text(value)) for key, value in environment.items() if value is not None},
            },
            ports=frozenset(_container_ports(service)),
            probes=frozenset(_health_check(service)),
            files={**_mounted(service, "secrets", {}), **_mounted(service, "configs", configs)},
            folders=frozenset(_folders(service)),
            answers_to=frozenset({name, *_aliases(service)}),
            finishes=service.get("restart", "no").partition(":")[0] in ("no", "on-failure"),
        )


def _text(value: object) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _filled_in(text: str) -> str:
    """Return a text with its variables as they are where nothing is set: ${NAME:-default}."""
    return _VARIABLE.sub(lambda match: "$" if match[0] == "$$" else match[2] or "", text)


def _container_ports(service: Mapping[str, Any]) -> Iterator[int]:
    for port in (*service.get("ports", []), *service.get("expose", [])):
        target = (
            port["target"]
            if isinstance(port, dict)
            else _filled_in(str(port)).rpartition(":")[2].partition("/")[0]
        )
        yield int(target)


def _health_check(service: Mapping[str, Any]) -> Iterator[Probe]:
    test = service.get("healthcheck", {}).get("test", [])
    for url in _URL.findall(" ".join(test) if isinstance(test, list) else test):
        parts = urlsplit(url)
        yield Probe(parts.port or 80, parts.path)


def _mounted(service: Mapping[str, Any], kind: str, known: Mapping[str, Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for each in service.get(kind, []):
        source, target = (each, None) if isinstance(each, str) else (each["source"], each.get("target"))
        default = f"/run/secrets/{target or source}" if kind == "secrets" else f"/{source}"
        path = target if target and target.startswith("/") else default
        found[path] = known.get(source, {}).get("content", UNKNOWN)
    return found


def _folders(service: Mapping[str, Any]) -> Iterator[str]:
    for volume in service.get("volumes", []):
        yield volume["target"] if isinstance(volume, dict) else volume.split(":")[1]
    tmpfs = service.get("tmpfs", [])
    for each in [tmpfs] if isinstance(tmpfs, str) else tmpfs:
        yield each.partition(":")[0]


def _aliases(service: Mapping[str, Any]) -> Iterator[str]:
    networks = service.get("networks", {})
    for network in networks.values() if isinstance(networks, dict) else ():
        yield from (network or {}).get("aliases", [])


def environment_of_image(dockerfile: str) -> dict[str, str]:
    """Return the EXCHANGE_… variables that a Dockerfile's last stage sets."""
    stage = re.split(r"(?m)^FROM\b", dockerfile)[-1]
    joined = re.sub(r"\\\n\s*", " ", stage)
    words = " ".join(line.removeprefix("ENV ") for line in joined.splitlines() if line.startswith("ENV "))
    return dict(re.findall(r"(EXCHANGE_\w+)=(\S+)", words))
