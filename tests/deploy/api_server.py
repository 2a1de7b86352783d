"""A stand-in for a cluster's API server: enough of it for `kubectl` to run the commands of
docs/how-to/deploy-on-kubernetes.md.

It stores objects, refuses what cannot be changed (immutable.py) and what a kind does not have, adds a few of
the defaults that the real one adds, and says of every workload at once that it is ready: Deployments are
available, Jobs complete, pods exist and run. It does not run anything; `exec`, `logs` and `port-forward` are
answered when the pod and container that they name exist.
"""

import base64
import copy
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from tests.deploy.cluster import pods, replicas_min
from tests.deploy.immutable import add_defaults_of_claims, refusals
from tests.deploy.rendered import Object

_PROTOBUF: Final = b"k8s\0"
RUNS_NOTHING: Final = "the stand-in runs nothing"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_PATH: Final = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)


class Kind(NamedTuple):
    """One kind of objects."""

    api: str
    kind: str
    plural: str
    short: tuple[str, ...] = ()
    is_namespaced: bool = True
    subresources: tuple[str, ...] = ()


BUILT_IN: Final = (
    Kind("v1", "Namespace", "namespaces", ("ns",), is_namespaced=False),
    Kind("v1", "ConfigMap", "configmaps", ("cm",)),
    Kind("v1", "Secret", "secrets"),
    Kind("v1", "Service", "services", ("svc",)),
    Kind("v1", "ServiceAccount", "serviceaccounts", ("sa",)),
    Kind("v1", "Pod", "pods", ("po",), subresources=("log", "exec", "portforward")),
    Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", ("pvc",)),
    Kind("apps/v1", "Deployment", "deployments", ("deploy",), subresources=("scale", "status")),
    Kind("apps/v1", "StatefulSet", "statefulsets", ("sts",), subresources=("scale", "status")),
    Kind("apps/v1", "ReplicaSet", "replicasets", ("rs",)),
    Kind("apps/v1", "ControllerRevision", "controllerrevisions"),
    Kind("batch/v1", "Job", "jobs"),
    Kind("batch/v1", "CronJob", "cronjobs", ("cj",)),
    Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", ("hpa",)),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", ("netpol",)),
    Kind("networking.k8s.io/v1", "Ingress", "ingresses", ("ing",)),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", ("pdb",)),
    Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", ("pc",), is_namespaced=False),
)
OPERATORS: Final = (
    Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects", ("so",)),
    Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors"),
    Kind("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules"),
    Kind("postgresql.cnpg.io/v1", "Cluster", "clusters"),
    Kind("postgresql.cnpg.io/v1", "ScheduledBackup", "scheduledbackups"),
    Kind("barmancloud.cnpg.io/v1", "ObjectStore", "objectstores"),
)
Key = tuple[str, str, str]
"""Plural, namespace and name."""


class RefusalError(Exception):
    """An answer other than success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


class ApiServer:
    """Serves on 127.0.0.1; `kubeconfig` names it."""

    def __init__(self, folder: Path, *, operators: bool) -> None:
        self.kinds: tuple[Kind, ...] = (*BUILT_IN, *(OPERATORS if operators else ()))
        self.objects: dict[Key, Object] = {}
        self.asked: list[str] = []
        """Every request that changed something, and every exec, log and port-forward."""
        self.beside: dict[str, list[str]] = {}
        """By the name of a Job: the pods that ran when it was made."""
        self.lock = threading.RLock()
        self._version = 0
        server = self

        class Handler(_Handler):
            api = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self.kubeconfig = folder / "kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{self._http.server_port}"}
        context = {"cluster": "stand-in", "user": "tester"}
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "stand-in",
                    "clusters": [{"name": "stand-in", "cluster": cluster}],
                    "contexts": [{"name": "stand-in", "context": context}],
                    "users": [{"name": "tester", "user": {}}],
                }
            ),
            "utf-8",
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def kind_of(self, plural: str) -> Kind:
        """Return a kind.

        Raises:
            RefusalError: there is none of the name.
        """
        for each in self.kinds:
            if each.plural == plural:
                return each
        raise RefusalError(404, "NotFound", f"the server could not find the requested resource {plural}")

    def get(self, key: Key) -> Object:
        """Return an object.

        Raises:
            RefusalError: there is none.
        """
        found = self.all_objects().get(key)
        if found is None:
            raise RefusalError(404, "NotFound", f'{key[0]} "{key[2]}" not found')
        return found

    def all_objects(self) -> dict[Key, Object]:
        """Return what is stored, and the pods that controllers would have made."""
        made = {
            ("pods", "exchange", each["metadata"]["name"]): each
            for each in _pods(list(self.objects.values()))
        }
        return self.objects | made

    def put(self, kind: Kind, namespace: str, value: Object, before: Object | None) -> Object:
        """Store an object.

        Raises:
            RefusalError: its namespace is missing, or a field was changed that cannot be.
        """
        if kind.is_namespaced and ("namespaces", "", namespace) not in self.objects:
            raise RefusalError(404, "NotFound", f'namespaces "{namespace}" not found')
        value = copy.deepcopy(value)
        value.setdefault("metadata", {})
        _add_defaults(value)
        if kind.is_namespaced:
            value["metadata"]["namespace"] = namespace
        if before is not None and (refused := refusals([before], [value])):
            raise RefusalError(422, "Invalid", f"{'; '.join(refused)}: Invalid value: field is immutable")
        self._version += 1
        value["metadata"] |= {
            "resourceVersion": str(self._version),
            "uid": str(self._version),
            "generation": 1,
        }
        value["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        _add_status(value)
        self.objects[kind.plural, namespace if kind.is_namespaced else "", value["metadata"]["name"]] = value
        return value


def _pods(objects: list[Object]) -> Iterator[Object]:
    for pod in pods(objects):
        if pod.kind == "CronJob" or pod.workload["spec"].get("suspend"):
            continue
        # A scaler leaves a workload with no replicas alone.
        count = (
            1 if pod.ends else replicas_min(objects, pod) if pod.workload["spec"].get("replicas") != 0 else 0
        )
        for number in range(count):
            conditions = [{"type": "Ready", "status": "True"}]
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{pod.name}-{number}",
                    "namespace": "exchange",
                    "labels": {**pod.labels, **({"job-name": pod.name} if pod.ends else {})},
                    "uid": f"{pod.name}-{number}",
                    "resourceVersion": "1",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                },
                "spec": copy.deepcopy(pod.spec),
                "status": {"phase": "Running", "conditions": conditions, "containerStatuses": []},
            }


def _add_defaults(value: Object) -> None:
    """Add the defaults that are seen in lists, where kubectl compares whole elements."""
    if value["kind"] == "StatefulSet":
        add_defaults_of_claims(value["spec"])
    if value["kind"] == "Service" and "clusterIP" not in value["spec"]:
        value["spec"]["clusterIP"] = "10.96.0.1"
    for port in value.get("spec", {}).get("ports", []) if value["kind"] == "Service" else []:
        port.setdefault("protocol", "TCP")
    if value["kind"] == "Job":
        name = {"batch.kubernetes.io/job-name": value["metadata"]["name"]}
        value["spec"].setdefault("selector", {"matchLabels": name})
        value["spec"]["template"].setdefault("metadata", {}).setdefault("labels", {}).update(name)


def _add_status(value: Object) -> None:
    count = value.get("spec", {}).get("replicas", 1)
    generation = {"observedGeneration": 1}
    match value["kind"]:
        case "Deployment":
            ready = dict.fromkeys(
                ("replicas", "updatedReplicas", "availableReplicas", "readyReplicas"), count
            )
            conditions = [{"type": "Available", "status": "True"}, {"type": "Progressing", "status": "True"}]
            value["status"] = generation | ready | {"conditions": conditions}
        case "StatefulSet":
            value["spec"].setdefault("updateStrategy", {"type": "RollingUpdate"})
            names = ("replicas", "updatedReplicas", "availableReplicas", "readyReplicas", "currentReplicas")
            revision = {"currentRevision": "r1", "updateRevision": "r1"}
            value["status"] = generation | dict.fromkeys(names, count) | revision
        case "Job":
            suspended = value["spec"].get("suspend", False)
            conditions = [{"type": "Suspended" if suspended else "Complete", "status": "True"}]
            value["status"] = {"conditions": conditions, "succeeded": 1 - int(suspended)}


def merged(value: Any, patch: Any) -> Any:
    """Return a value with a merge patch applied.

    Lists are replaced, and what a strategic patch says about their order is dropped.
    """
    if not isinstance(patch, dict) or not isinstance(value, dict):
        return patch
    found = dict(value)
    for key, part in patch.items():
        if key.startswith("$"):
            continue
        if part is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key, {} if isinstance(part, dict) else None), part)
    return found


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Head and body are two packets.

    Else each answer waits 40 ms for the client's acknowledgement of the first.
    """

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with self.api.lock:
                code, value = 200, self._handle(body)
            if self.command == "POST" and not isinstance(value, str):
                code = 201
        except RefusalError as error:
            code, value = error.code, error.status
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base class calls them so

    def _handle(self, body: bytes) -> Any:
        parts = urlsplit(self.path)
        if (document := self._described(parts.path)) is not None:
            return document
        place = _PATH.fullmatch(parts.path)
        if place is None:
            raise RefusalError(404, "NotFound", f"nothing is at {parts.path}")
        kind = self.api.kind_of(place["plural"])
        query = parse_qs(parts.query)
        namespace, name = place["namespace"] or "", place["name"]
        if kind.plural == "namespaces":
            namespace, name = "", name or place["namespace"]
        if place["sub"] in ("log", "exec", "portforward", "attach"):
            return self._of_pod(place, query)
        if self.command == "GET":
            found = (
                self.api.get((kind.plural, namespace, name)) if name else self._listed(kind, namespace, query)
            )
            return _scale(found) if place["sub"] == "scale" else found
        self.api.asked.append(f"{self.command} {parts.path}")
        if self.command == "DELETE":
            return self._deleted(kind, namespace, name, query)
        if self.command == "POST":
            value = self._typed(kind, body) if body.startswith(_PROTOBUF) else json.loads(body)
            return self._posted(kind, namespace, value)
        before = self.api.get((kind.plural, namespace, name))
        after = self._changed(kind, namespace, before, json.loads(body), place["sub"])
        return _scale(after) if place["sub"] == "scale" else after

    def _posted(self, kind: Kind, namespace: str, value: Object) -> Object:
        key = kind.plural, namespace if kind.is_namespaced else "", value["metadata"]["name"]
        if key in self.api.objects:
            raise RefusalError(409, "AlreadyExists", f'{kind.plural} "{key[2]}" already exists')
        if kind.kind == "Job":
            self.api.beside[key[2]] = [name for plural, _, name in self.api.all_objects() if plural == "pods"]
        return self.api.put(kind, namespace, value, None)

    def _typed(self, kind: Kind, body: bytes) -> Object:
        """Read what `kubectl create` sends: a Secret, or a Job out of a CronJob, which is named as its
        owner.
        """
        unknown = protobuf(body[len(_PROTOBUF) :])
        value = protobuf(unknown[2][0])
        metadata = protobuf(value[1][0])
        found: Object = {
            "apiVersion": kind.api,
            "kind": kind.kind,
            "metadata": {"name": metadata[1][0].decode()},
        }
        if kind.kind == "Secret":
            entries = [protobuf(each) for each in value.get(2, [])]
            found["data"] = {each[1][0].decode(): base64.b64encode(each[2][0]).decode() for each in entries}
        elif kind.kind == "Job":
            owner = protobuf(metadata[13][0])[3][0].decode()
            template = self.api.get(("cronjobs", "exchange", owner))["spec"]["jobTemplate"]
            found["metadata"]["labels"] = dict(template["metadata"]["labels"])
            found["spec"] = copy.deepcopy(template["spec"])
        return found

    def _changed(self, kind: Kind, namespace: str, before: Object, change: Object, sub: str | None) -> Object:
        if sub == "scale":
            change = {"spec": {"replicas": change["spec"]["replicas"]}}
        applied = change.get("metadata", {}).get("annotations", {}).get(LAST_APPLIED)
        if self.command == "PUT" and sub is None:
            after = change
        elif applied:
            # What kubectl has worked out leads to this, and to what the server added by itself.
            after = json.loads(applied)
            after["metadata"].setdefault("annotations", {})[LAST_APPLIED] = applied
            for name in ("clusterIP", "selector"):
                if name in before.get("spec", {}) and name not in after.get("spec", {}):
                    after["spec"][name] = before["spec"][name]
        else:
            after = merged(before, change)
        return self.api.put(kind, namespace, after, before)

    def _deleted(
        self, kind: Kind, namespace: str, name: str | None, query: Mapping[str, list[str]]
    ) -> Object:
        names = (
            [name]
            if name
            else [each["metadata"]["name"] for each in self._listed(kind, namespace, query)["items"]]
        )
        for each in names:
            self.api.get((kind.plural, namespace, each))
            self.api.objects.pop((kind.plural, namespace, each), None)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _listed(self, kind: Kind, namespace: str, query: Mapping[str, list[str]]) -> Object:
        found = [
            each
            for (plural, where, _), each in self.api.all_objects().items()
            if plural == kind.plural and where == namespace and _matches(each, query)
        ]
        if query.get("watch"):
            raise RefusalError(410, "Expired", "there is nothing to watch: everything is as it will be")
        return {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api,
            "metadata": {"resourceVersion": "1"},
            "items": found,
        }

    def _of_pod(self, place: re.Match[str], query: Mapping[str, list[str]]) -> str:
        pod = self.api.get(("pods", place["namespace"] or "", place["name"] or ""))
        containers = [each["name"] for each in pod["spec"]["containers"]]
        for each in query.get("container", []):
            if each not in containers:
                raise RefusalError(
                    400, "BadRequest", f"container {each} is not valid for pod {place['name']}"
                )
        self.api.asked.append(f"{place['sub']} {place['name']} {' '.join(query.get('command', []))}".strip())
        if place["sub"] == "log":
            return "done\n"
        raise RefusalError(501, "NotImplemented", RUNS_NOTHING)

    def _described(self, path: str) -> Any:
        groups: dict[str, list[Kind]] = {}
        for each in self.api.kinds:
            groups.setdefault(each.api, []).append(each)
        if path == "/version":
            return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            found = [each.split("/") for each in groups if "/" in each]
            versions: list[Object] = [
                {"name": group, "versions": [{"groupVersion": f"{group}/{name}", "version": name}]}
                for group, name in found
            ]
            for listed, (group, name) in zip(versions, found, strict=True):
                listed["preferredVersion"] = {"groupVersion": f"{group}/{name}", "version": name}
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": versions}
        if path == "/openapi/v3":
            return {
                "paths": {
                    _root(each)[1:]: {"serverRelativeURL": f"/openapi/v3{_root(each)}"} for each in groups
                }
            }
        for api, kinds in groups.items():
            if path == _root(api):
                return {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": api,
                    "resources": _resources(kinds),
                }
            if path == f"/openapi/v3{_root(api)}":
                return _openapi(kinds)
        return None


def protobuf(data: bytes) -> dict[int, list[bytes]]:
    """Return the fields of a message that are text, bytes or messages, by their numbers."""
    found: dict[int, list[bytes]] = {}
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            value |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if byte < 0x80:
                return value

    while place < len(data):
        tag = number()
        if tag & 7 == 0:
            number()
            continue
        assert tag & 7 == 2, "no other wire type is in what kubectl creates"
        length = number()
        found.setdefault(tag >> 3, []).append(data[place : place + length])
        place += length
    return found


def _scale(value: Object) -> Object:
    count = value["spec"].get("replicas", 1)
    metadata = {key: value["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": count},
        "status": {"replicas": count},
    }


def _root(api: str) -> str:
    return f"/apis/{api}" if "/" in api else f"/api/{api}"


def _resources(kinds: list[Kind]) -> list[Object]:
    verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    found = []
    for each in kinds:
        common = {"namespaced": each.is_namespaced, "kind": each.kind, "verbs": verbs}
        found.append(
            {"name": each.plural, "singularName": each.kind.lower(), "shortNames": list(each.short), **common}
        )
        found += [{"name": f"{each.plural}/{sub}", "singularName": "", **common} for sub in each.subresources]
    return found


def _openapi(kinds: list[Kind]) -> Object:
    """Say of each kind that its fields are validated by the server, as kubectl wants to know before it
    applies anything."""
    paths = {}
    for each in kinds:
        group, _, version = each.api.rpartition("/")
        where = f"{_root(each.api)}/namespaces/{{namespace}}/{each.plural}/{{name}}"
        identity = {"group": group, "version": version, "kind": each.kind}
        parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
        paths[where] = {
            "patch": {"parameters": parameters, "x-kubernetes-group-version-kind": identity, "responses": {}}
        }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.32.0"}, "paths": paths}


def _is_selected(labels: Mapping[str, str], part: str) -> bool:
    """Return whether labels meet one requirement: `key`, `key=value`, `key!=value` or `key in
    (value,value)`.
    """
    if several := re.fullmatch(r"(\S+) in \((.*)\)", part):
        return labels.get(several[1]) in [each.strip() for each in several[2].split(",")]
    key, equals, wanted = part.replace("==", "=").partition("=")
    if key.endswith("!"):
        return labels.get(key[:-1]) != wanted
    return labels.get(key) == wanted if equals else key in labels


def _matches(value: Object, query: Mapping[str, list[str]]) -> bool:
    labels = value["metadata"].get("labels", {})
    for selector in query.get("labelSelector", []):
        for part in filter(None, re.split(r",(?![^(]*\))", selector)):
            if not _is_selected(labels, part):
                return False
    for selector in query.get("fieldSelector", []):
        key, _, wanted = selector.partition("=")
        found: Any = value
        for part in key.split("."):
            found = found.get(part, {})
        if str(found) != wanted and not (key == "metadata.name" and value["metadata"]["name"] == wanted):
            return False
    return True
