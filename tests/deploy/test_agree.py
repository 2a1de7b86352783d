"""The manifests agree with the code: every setting exists, and every process starts as they say, gets ready,
and listens where they say."""

import base64
import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
import redis
import yaml

from runtime.settings import PREFIX, Settings, SettingsError, load_settings
from tests.deploy.cluster import pods
from tests.deploy.manifests import Workload, environment_of_image, of_compose, of_kubernetes
from tests.deploy.policy import DRAIN_S
from tests.deploy.rendered import OVERLAYS, ROOT, VERSION, named, of_kind, rendered
from tests.deploy.running import DEADLINE_S, Running, Servers, unchanged
from tests.support.eventually import eventually
from tests.support.redis_servers import RedisServers
from ws_edge.main import CLOSE_TIMEOUT_S

COMPOSE: Final = ROOT / "docker-compose.yml"
DOCKERFILE: Final = ROOT / "Dockerfile"
MANIFESTS: Final = (*OVERLAYS, COMPOSE.name)
FRONTEND_VARIABLES: Final = frozenset({"EXCHANGE_FRONTEND_API_URL", "EXCHANGE_FRONTEND_WS_URL"})
"""What the frontend's image, which is nginx, makes something of."""


def workloads(manifest: str) -> list[Workload]:
    """Return everything that a manifest runs."""
    image = environment_of_image(DOCKERFILE.read_text("utf-8")) if DOCKERFILE.exists() else {}
    if manifest != COMPOSE.name:
        found = list(of_kubernetes(rendered(manifest)))
        return [
            msgspec.structs.replace(each, environment={**image, **each.environment}) if each.module else each
            for each in found
        ]
    if not COMPOSE.exists():
        pytest.skip("there is no docker-compose.yml in this checkout")
    return [
        each if each.module else msgspec.structs.replace(each, environment=_without(each.environment, image))
        for each in of_compose(yaml.safe_load(COMPOSE.read_text("utf-8")), image)
    ]


def _without(environment: dict[str, str] | object, image: dict[str, str]) -> dict[str, str]:
    assert isinstance(environment, dict)
    return {name: value for name, value in environment.items() if image.get(name) != value}


def ours(manifest: str) -> list[Workload]:
    """Return the processes of ours, each kind of them once."""
    return [each for each in workloads(manifest) if each.module is not None]


def mistakes(workload: Workload, folder: Path) -> str:
    """Return what is wrong with the settings that a workload is given."""
    values = dict(workload.environment)
    for name, value in workload.environment.items():
        if name in (
            f"{PREFIX}MARKETS_FILE",
            *(
                f"{PREFIX}{each}_FILE"
                for each in (
                    *(
                        "REDIS_URL",
                        "CACHE_URL",
                        "DATABASE_URL",
                        "DATABASE_ROLE_PASSWORDS",
                        "DATABASE_ADMIN_URL",
                    ),
                    *("MASTER_KEY", "MASTER_KEY_PREVIOUS", "METRICS_PASSWORD"),
                    *("OPERATOR_KEYS", "OPERATOR_KEY", "TREASURY_KEY", "FAUCET_KEY"),
                )
            ),
        ):
            file = folder / f"{name}-{len(list(folder.iterdir()))}"
            unknown = "redis://127.0.0.1:1/0" if "REDIS" in name or "CACHE" in name else "x"
            file.write_text(workload.files.get(value) or unknown, "utf-8")
            values[name] = str(file)
    try:
        load_settings(values)
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_setting_exists_and_can_be_read(manifest: str, tmp_path: Path) -> None:
    found = workloads(manifest)
    assert {each.name: text for each in found if (text := mistakes(each, tmp_path))} == {}
    for each in found:
        if each.module is None and each.name == "frontend":
            assert each.environment.keys() <= FRONTEND_VARIABLES


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("EXCHANGE_SHARDS", "3", "no such setting"),
        ("EXCHANGE_SHARD_COUNT", "three", "Expected `int`"),
        ("EXCHANGE_FAUCET_ENABLED", "no!", "EXCHANGE_FAUCET_ENABLED"),
        ("EXCHANGE_SHARD", "3", "must be less"),
    ],
)
def test_a_setting_that_is_not_one_is_found(name: str, value: str, says: str, tmp_path: Path) -> None:
    engine = next(each for each in ours("local") if each.module == "engine_worker.main")
    assert says in mistakes(
        msgspec.structs.replace(engine, environment={**engine.environment, name: value}), tmp_path
    )


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_command_exists(manifest: str) -> None:
    for each in ours(manifest):
        assert importlib.util.find_spec(each.module or "") is not None, each.name
        assert each.command[0] == "python"


@contextmanager
def running(found: Sequence[Workload], servers: Servers, folder: Path) -> Iterator[dict[str, Running]]:
    """Run all of it, until the context ends: what comes first one by one, then everything at once, as a
    cluster does."""
    processes = {each.name: Running(each, folder / each.name.replace("/", "-")) for each in found}
    started: list[Running] = []
    try:
        once = [each for each in processes.values() if each.workload.finishes]
        for each in sorted(once, key=lambda each: each.workload.command[-1] != "migrate"):
            if any(
                (each.workload.command, each.workload.environment)
                == (other.workload.command, other.workload.environment)
                for other in started
            ):
                continue  # many pods wait for the schema in the same way
            started.append(each)
            each.start(servers, processes.values())
            each.finish()
        stay = {name: each for name, each in processes.items() if not each.workload.finishes}
        for each in stay.values():
            started.append(each)
            each.start(servers, processes.values())
        for each in stay.values():
            each.await_ready()
        yield stay
    finally:
        for each in started:
            each.stop()


def trades_are_stored(database_url: str) -> bool:
    with psycopg.connect(database_url) as connection:
        return connection.execute("SELECT EXISTS (SELECT FROM orders)").fetchone() == (True,)


def assert_as_described(processes: dict[str, Running], servers: Servers) -> None:
    for name, each in processes.items():
        assert each.workload.ports <= each.listening(), each.says(
            f"{name} does not listen where its manifest says"
        )
        assert unchanged(each.workload, each.environment(servers, processes.values()))


# Takes long: servers of their own start, and then every process of the overlay.
@pytest.mark.parametrize("overlay", ["local", "minimal"])
def test_with_a_redis_of_its_own_everything_gets_ready(
    overlay: str, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    """Redis lets the processes do what the overlay's users.acl says, and nothing that they do is more than
    that."""
    (acl,) = (
        each["stringData"]["users.acl"] if "stringData" in each else _decoded(each, "users.acl")
        for each in of_kind(rendered(overlay), "Secret")
        if each["metadata"]["name"].startswith("redis-users")
    )
    place = urlsplit(redis_url)

    def with_the_users_of_the_overlay(url: str | None) -> str:
        assert url is not None
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{place.port}").geturl()

    servers = Servers(with_the_users_of_the_overlay, database_url)
    with redis.Redis.from_url(redis_url) as admin:
        users = [
            line.split()[1:]
            for line in acl.splitlines()
            if line.startswith("user ") and "default" not in line
        ]
        for name, *rules in users:
            admin.execute_command("ACL", "SETUSER", name, "reset", *rules)
        admin.execute_command("ACL", "LOG", "RESET")
        try:
            with running(ours(overlay), servers, tmp_path) as processes:
                assert_as_described(processes, servers)
                eventually(
                    "an order of the market maker in the database",
                    lambda: trades_are_stored(database_url),
                    DEADLINE_S,
                )
                assert admin.execute_command("ACL", "LOG") == []
        finally:
            for name, *_ in users:
                admin.execute_command("ACL", "DELUSER", name)


def _decoded(secret: dict[str, dict[str, str]], key: str) -> str:
    return base64.b64decode(secret["data"][key]).decode()


def test_behind_sentinel_everything_gets_ready(
    sentinel_servers: RedisServers, database_url: str, tmp_path: Path
) -> None:
    """As production is: what is said is replicated first."""
    sentinel_servers.flush()
    servers = Servers(lambda _: sentinel_servers.url, database_url)
    with running(ours("production"), servers, tmp_path) as processes:
        assert_as_described(processes, servers)
    sentinel_servers.flush()


def test_what_compose_runs_gets_ready(redis_url: str, database_url: str, tmp_path: Path) -> None:
    servers = Servers(lambda _: redis_url, database_url)
    with running(ours(COMPOSE.name), servers, tmp_path) as processes:
        assert_as_described(processes, servers)


def test_a_port_that_nobody_listens_on_is_found(redis_url: str, database_url: str, tmp_path: Path) -> None:
    feeds = next(each for each in ours("minimal") if each.name == "feeds")
    servers = Servers(lambda _: redis_url, database_url)
    claimed = [msgspec.structs.replace(feeds, ports=feeds.ports | {9101})]
    with (
        running(claimed, servers, tmp_path) as processes,
        pytest.raises(AssertionError, match="does not listen where its manifest says"),
    ):
        assert_as_described(processes, servers)
    moved = {**feeds.environment, "EXCHANGE_REDIS_URL_FILE": "/nowhere/url"}
    lost = Running(msgspec.structs.replace(feeds, environment=moved), tmp_path / "moved")
    with pytest.raises(AssertionError, match="nothing is at /nowhere/url"):
        lost.environment(servers, [])


def test_the_version_is_the_programs() -> None:
    for overlay in OVERLAYS:
        objects = rendered(overlay)
        images = {
            container["image"]
            for pod in pods(objects)
            for container in pod.all_containers
            if "/exchange" in f"/{container['image']}"
        }
        assert {image.rpartition(":")[2] for image in images} == {VERSION}


def test_processes_end_within_what_the_policy_grants() -> None:
    settings = Settings()
    assert settings.reply_timeout_ms // 1000 + 1 <= DRAIN_S["gateway.main"]
    assert DRAIN_S["ws_edge.main"] >= CLOSE_TIMEOUT_S + 10


def test_what_workers_scale_on_is_a_metric() -> None:
    """KEDA asks for a metric that the code has."""
    query = named(rendered("production"), "ScaledObject", "persist-worker")["spec"]["triggers"][0][
        "metadata"
    ]["query"]
    (metric,) = re.findall(r"\b([a-z]+(?:_[a-z]+)+)\b(?=\{)", query)
    assert f'"{metric}"' in (ROOT / "persist" / "nudge.py").read_text("utf-8")


MEMORY: Final = {"m": 1 << 20, "g": 1 << 30}
LIMITED: Final = {
    "deploy/redis/cache.conf": ("docker-compose.yml", r"redis-cache:.*?memory: (\d+)(M)"),
    "deploy/redis/redis.conf": ("docker-compose.yml", r"x-redis:.*?memory: (\d+)(G)"),
    "k8s/components/redis-cache/cache.conf": (
        "k8s/components/redis-cache/cache.yaml",
        r"limits: .*memory: (\d+)(G)i",
    ),
    "k8s/components/redis-single/redis.conf": (
        "k8s/components/redis-single/redis.yaml",
        r"limits: .*memory: (\d+)(G)i",
    ),
    "k8s/components/redis-sentinel/redis.conf": (
        "k8s/components/redis-sentinel/redis.yaml",
        r"limits: .*memory: (\d+)(G)i",
    ),
}
"""Configuration -> what limits the container of the server, and how it says so."""


@pytest.mark.parametrize("configuration", LIMITED)
def test_redis_refuses_writes_before_its_container_is_ended(configuration: str) -> None:
    """A server at its `maxmemory` still needs memory: copies while it rewrites its log, buffers, what was
    accepted before."""
    file, pattern = LIMITED[configuration]
    limit = re.search(pattern, (ROOT / file).read_text("utf-8"), re.DOTALL)
    memory = re.search(r"^maxmemory (\d+)(m)b$", (ROOT / configuration).read_text("utf-8"), re.MULTILINE)
    assert limit is not None
    assert memory is not None
    limit_bytes, bytes_max = (int(found[1]) * MEMORY[found[2].lower()] for found in (limit, memory))
    assert 0.6 <= bytes_max / limit_bytes <= 0.7
