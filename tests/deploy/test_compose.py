"""The compose file holds what it promises: nothing runs with more rights than it needs, without limits, or
unasked whether it is well."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.settings import Settings
from tests.deploy.rendered import ROOT
from tests.deploy.topology import COMPOSE_FILE, composed, env_file

Service = dict[str, Any]

SECRET = re.compile(r"password|secret|token|key|url", re.IGNORECASE)
ONCE = ("no", "on-failure")
"""Restart policies of what runs once: nobody asks it how it is."""


def mistakes(services: dict[str, Service]) -> Iterator[str]:
    """Return what is wrong with each service, a line each."""
    for name, service in services.items():
        for what, is_well in CHECKS.items():
            try:
                if not is_well(service):
                    yield f"{name}: {what}"
            except (KeyError, TypeError):
                yield f"{name}: {what}"


def _is_pinned(service: Service) -> bool:
    _, _, tag = service["image"].rpartition(":")
    return bool(tag) and "/" not in tag and "latest" not in tag


def _has_no_secret(service: Service) -> bool:
    environment = service.get("environment") or {}
    assert isinstance(environment, dict)
    return all(
        not SECRET.search(variable) or variable.endswith("_FILE") or re.match(r"(http|ws)s?://[^@]*$", value)
        for variable, value in environment.items()
    )


def _mounts_what_is_there(service: Service) -> bool:
    sources = [each.split(":")[0] for each in service.get("volumes", [])]
    ours = [source for source in sources if source.startswith((".", "/"))]
    return all((ROOT / source).exists() for source in ours) and all(
        each.endswith(":ro")
        for each in service.get("volumes", [])
        if each.startswith((".", "/", "secrets-"))
        and service.get("command", [])[:2] != ["exchange", "secrets"]
    )


def _is_asked(service: Service) -> bool:
    if service["restart"].startswith(ONCE):
        return bool(service["healthcheck"]["disable"])
    check = service["healthcheck"]
    return (
        check["test"][0] in ("CMD", "CMD-SHELL")
        and {"interval", "timeout", "retries", "start_period"} <= check.keys()
    )


CHECKS: dict[str, Callable[[Service], bool]] = {
    "runs as root, or as whoever its image says": lambda s: str(s["user"]).split(":")[0] not in ("root", "0"),
    "can write to its file system": lambda s: s["read_only"] is True,
    "keeps capabilities": lambda s: (
        s["cap_drop"] == ["ALL"] and not s.get("cap_add") and not s.get("privileged")
    ),
    "may gain privileges": lambda s: "no-new-privileges:true" in s["security_opt"],
    "has no limits": lambda s: {"cpus", "memory", "pids"} <= s["deploy"]["resources"]["limits"].keys(),
    "is not started anew, or not asked how it is": _is_asked,
    "logs without end": lambda s: {"max-size", "max-file"} <= s["logging"]["options"].keys(),
    "has no time to stop": lambda s: bool(s["stop_grace_period"]),
    "has an image without a version": _is_pinned,
    "has a secret in its environment": _has_no_secret,
    "mounts what is not there, or may change it": _mounts_what_is_there,
    "has a command that is no list": lambda s: isinstance(s.get("command", []), list),
    "is open to other machines": lambda s: all(
        str(each).startswith("127.0.0.1:") for each in s.get("ports", [])
    ),
}

SERVICES: dict[str, Service] = composed({})["services"]


def test_every_service_is_confined_limited_and_asked_how_it_is() -> None:
    assert len(SERVICES) >= 20
    assert list(mistakes(SERVICES)) == []


@pytest.mark.parametrize(
    ("planted", "what"),
    [
        ({"user": "0:0"}, "runs as root"),
        ({"user": None}, "runs as root"),
        ({"read_only": False}, "can write"),
        ({"cap_add": ["NET_ADMIN"]}, "keeps capabilities"),
        ({"privileged": True}, "keeps capabilities"),
        ({"security_opt": []}, "may gain privileges"),
        ({"deploy": {"replicas": 2}}, "has no limits"),
        ({"healthcheck": {"disable": True}}, "not asked"),
        ({"logging": {"driver": "json-file"}}, "logs without end"),
        ({"image": "redis:latest"}, "without a version"),
        ({"image": "registry:5000/redis"}, "without a version"),
        ({"environment": {"EXCHANGE_REDIS_URL": "redis://gateway:hunter2@redis/0"}}, "has a secret"),
        ({"environment": {"POSTGRES_PASSWORD": "hunter2"}}, "has a secret"),
        ({"volumes": ["./deploy/no/such:/etc/such:ro"]}, "mounts what is not there"),
        ({"volumes": ["secrets-gateway:/run/exchange"]}, "may change it"),
        ({"command": "python -m gateway.main"}, "no list"),
        ({"ports": ["8000:8000"]}, "open to other machines"),
    ],
)
def test_the_check_finds_what_is_planted(planted: Service, what: str) -> None:
    bad = {"gateway": {**deepcopy(SERVICES["gateway"]), **planted}}
    if planted.get("user", "") is None:
        del bad["gateway"]["user"]
    found = list(mistakes(bad))
    assert len(found) == 1
    assert what in found[0]


def test_the_file_is_a_compose_file(tmp_path: Path) -> None:
    assert _validate("vendor.compose-spec", COMPOSE_FILE).returncode == 0
    document = yaml.safe_load(COMPOSE_FILE.read_text("utf-8"))
    document["services"]["gateway"]["comand"] = ["python"]
    planted = tmp_path / "docker-compose.yml"
    planted.write_text(yaml.safe_dump(document), "utf-8")
    assert _validate("vendor.compose-spec", planted).returncode == 1


def _validate(schema: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_every_market_has_a_shard_with_a_leader_and_a_standby() -> None:
    count = int(SERVICES["gateway"]["environment"]["EXCHANGE_SHARD_COUNT"])
    assert count == len(Settings(shard_count=count).market_map().markets)
    engines = {
        service["environment"]["EXCHANGE_ENGINE"]: service["environment"]["EXCHANGE_SHARD"]
        for name, service in SERVICES.items()
        if name.startswith("engine-")
    }
    assert len(engines) == 2 * count
    assert sorted(engines.values()) == sorted(2 * [str(shard) for shard in range(count)])
    assert all(
        service["environment"]["EXCHANGE_ENGINE"] == name
        for name, service in SERVICES.items()
        if "engine-" in name
    )


def test_the_faucet_is_closed_unless_asked_for() -> None:
    assert SERVICES["gateway"]["environment"]["EXCHANGE_FAUCET_ENABLED"] == "false"
    assert (
        composed(env_file("demo.env"))["services"]["gateway"]["environment"]["EXCHANGE_FAUCET_ENABLED"]
        == "true"
    )


def test_what_a_service_waits_for_is_started_with_it() -> None:
    for variables in ({}, env_file("demo.env"), env_file("sentinel.env")):
        profiles = set(variables.get("COMPOSE_PROFILES", "").split(","))
        started = {
            name
            for name, service in SERVICES.items()
            if not service.get("profiles") or profiles & set(service["profiles"])
        }
        for name in started:
            assert SERVICES[name].get("depends_on", {}).keys() <= started, name


def test_sentinel_is_chosen_by_its_file() -> None:
    environment = composed(env_file("sentinel.env"))["services"]["gateway"]["environment"]
    assert environment["EXCHANGE_REDIS_URL_FILE"] == "/run/exchange/redis-sentinel-url"
    assert environment["EXCHANGE_REDIS_REPLICAS_MIN"] == "1"


def test_prometheus_asks_every_process() -> None:
    document = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    asked = {
        name
        for job in document["scrape_configs"]
        for found in job["dns_sd_configs"]
        for name in found["names"]
        if found["port"] == 9100
    }
    processes = {
        name
        for name, service in SERVICES.items()
        if (service.get("environment") or {}).get("EXCHANGE_METRICS_PORT") == "9100"
        and not service["restart"].startswith(ONCE)
    }
    assert asked == processes | {"proxy"}
