"""Who may speak to whom, worked out from the NetworkPolicies: what is needed is open, and nothing else."""

from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from tests.deploy.cluster import Peer, Pod, may_connect, pods
from tests.deploy.rendered import OVERLAYS, Object, named, rendered

INGRESS: Final = Peer({}, "ingress-nginx")
PROMETHEUS: Final = Peer({}, "monitoring")
STRANGER: Final = Peer({"app.kubernetes.io/name": "gateway", "exchange/redis": "client"}, "elsewhere")
NODE_CACHES: Final = ("169.254.20.10", "169.254.169.254")
"""Where a node answers for names: NodeLocal DNSCache, GKE's Cloud DNS."""
CNPG: Final = Peer({"cnpg.io/cluster": "database"}, "exchange")
"""The database's pods in production, which the operator makes."""


def peer(pod: Pod) -> Peer:
    return Peer(pod.labels, "exchange")


def flows(objects: Sequence[Object], overlay: str) -> Iterator[tuple[str, str, int]]:
    """Yield every connection that is possible between pods, and from ingress controller, Prometheus and a
    stranger."""
    ends = {pod.name: (peer(pod), sorted(set(pod.ports.values()))) for pod in pods(objects)}
    if overlay == "production":
        ends["database"] = (CNPG, [5432])
    sources = {name: end for name, (end, _) in ends.items()}
    sources |= {"INGRESS": INGRESS, "PROMETHEUS": PROMETHEUS, "STRANGER": STRANGER}
    for source, source_end in sources.items():
        for target, (target_end, ports) in ends.items():
            for port in ports:
                if may_connect(objects, source_end, target_end, port):
                    yield source, target, port


def expected(objects: Sequence[Object], overlay: str) -> set[tuple[str, str, int]]:
    """Return the connections that there must be: Redis and the database for those that use them, clients to
    what serves them."""
    names = [pod.name for pod in pods(objects)]
    production = overlay == "production"
    engines = [name for name in names if name.startswith("engine-")]
    gateways = [name for name in names if name.startswith("gateway")]
    (migrate,) = (pod.name for pod in pods(objects) if pod.kind == "Job")
    storing = [*gateways, "ws-edge", "persist-nudger", "persist-worker", "restore"]
    database = "database" if production else "timescaledb"
    found = {(name, "redis", 6379) for name in (*engines, *storing, "feeds")}
    found |= {(name, "redis-cache", 6379) for name in (*engines, *storing, "feeds")}
    found |= {(name, database, 5432) for name in (*storing, migrate)}
    if overlay != "minimal":
        found |= {("INGRESS", name, 8000) for name in gateways if name != "gateway"}
        found |= {("INGRESS", "ws-edge", 8001), ("INGRESS", "frontend", 3000)}
    if production:
        found |= {(name, "sentinel", 26379) for name in (*engines, *storing, "feeds", "redis", "sentinel")}
        found |= {("redis", "redis", 6379), ("sentinel", "redis", 6379), ("database", "database", 5432)}
        found |= {("PROMETHEUS", name, 9100) for name in (*engines, *storing[:-1], "feeds")}
    else:
        found.add(("mm", "gateway", 8000))
    if overlay == "minimal":
        found.add(("frontend", "gateway", 8000))
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_needed_is_open_and_nothing_else(overlay: str) -> None:
    objects = rendered(overlay)
    assert set(flows(objects, overlay)) == expected(objects, overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everybody_may_ask_for_names(overlay: str) -> None:
    objects = rendered(overlay)
    for pod in pods(objects):
        assert may_connect(objects, peer(pod), Peer({"k8s-app": "kube-dns"}, "kube-system"), 53, "UDP"), (
            pod.name
        )
        for address in NODE_CACHES:
            assert may_connect(objects, peer(pod), Peer({}, "", address), 53, "UDP"), pod.name
            assert not may_connect(objects, peer(pod), Peer({}, "", address), 80), pod.name
        assert not may_connect(objects, peer(pod), Peer({}, "", "169.254.1.1"), 53, "UDP"), pod.name
        assert not may_connect(objects, peer(pod), Peer({}, "elsewhere"), 443), pod.name


@pytest.mark.parametrize(
    "policy", ["default-deny", "redis", "redis-clients", "timescaledb", "mm-gateway", "ingress-ws"]
)
def test_a_policy_that_is_not_there_is_noticed(policy: str) -> None:
    objects = rendered("local")
    objects.remove(named(objects, "NetworkPolicy", policy))
    assert set(flows(objects, "local")) != expected(objects, "local")
