"""Runs what docker-compose.yml says with podman, container by container: no part of it is left to a compose
program's reading.

Health checks are made by this process, since podman leaves them to systemd.
"""

import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.rendered import ROOT
from tests.support.eventually import eventually

COMPOSE_FILE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
_COMMAND_TIMEOUT_S = 600


def composed(variables: Mapping[str, str], file: Path = COMPOSE_FILE) -> dict[str, Any]:
    """Return the compose file with its `${NAME:-default}`s filled in."""
    text = _VARIABLE.sub(lambda found: variables.get(found[1]) or found[2], file.read_text("utf-8"))
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def env_file(name: str) -> dict[str, str]:
    """Return the variables of a file in deploy/."""
    lines = (ROOT / "deploy" / name).read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman and return what it prints."""
    done = subprocess.run(("podman", *arguments), capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
    if check and done.returncode:
        raise AssertionError(f"podman {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


class Topology:
    """The services of one set of profiles, with names, networks and volumes of its own."""

    def __init__(self, variables: Mapping[str, str], without: frozenset[str] = frozenset()) -> None:
        self._document = composed(variables)
        profiles = set(variables.get("COMPOSE_PROFILES", "").split(","))
        self.project = f"exchange-test-{secrets.token_hex(3)}"
        self.services: dict[str, dict[str, Any]] = {
            name: service
            for name, service in self._document["services"].items()
            if name not in without and (not service.get("profiles") or profiles & set(service["profiles"]))
        }
        self._containers: list[str] = []

    def start(self) -> None:
        """Start every service when what it depends on is as it asks for; return when all are healthy."""
        for name, network in self._document["networks"].items():
            options = ["--internal"] if (network or {}).get("internal") else []
            for each in (network or {}).get("ipam", {}).get("config", []):
                options += ["--subnet", each["subnet"], "--ip-range", each["ip_range"]]
            podman("network", "create", *options, f"{self.project}-{name}")
        for name in self._in_order():
            for needed, how in self.services[name].get("depends_on", {}).items():
                self._await(needed, how["condition"])
            for number in range(self.services[name].get("deploy", {}).get("replicas", 1)):
                self._containers.append(f"{self.project}-{name}-{number + 1}")
                podman("run", "--detach", *self._arguments(name, number + 1))
        for name in self.services:
            if not self._has_no_check(name):
                self._await(name, "service_healthy")

    def stop(self) -> None:
        """Remove everything."""
        for name in reversed(self._containers):
            podman("rm", "--force", "--time", "5", name, check=False)
        for name in self._document["networks"]:
            podman("network", "rm", "--force", f"{self.project}-{name}", check=False)
        for name in self._document["volumes"]:
            podman("volume", "rm", "--force", f"{self.project}-{name}", check=False)

    def containers(self, service: str) -> list[str]:
        """Return the names of a service's containers."""
        return [
            f"{self.project}-{service}-{n + 1}"
            for n in range(self.services[service]["deploy"].get("replicas", 1))
        ]

    def address(self, service: str, network: str) -> str:
        """Return where a service's first container is reached on a network."""
        field = f'{{{{(index .NetworkSettings.Networks "{self.project}-{network}").IPAddress}}}}'
        return podman("inspect", "--format", field, self.containers(service)[0])

    def run(self, service: str, *command: str) -> str:
        """Run a command as a service that is not started by itself, and return what it prints."""
        self.services[service] = self._document["services"][service]
        name = f"{self.project}-{service}-{secrets.token_hex(3)}"
        return podman("run", "--rm", *self._arguments(service, 1, name, command))

    def is_healthy(self, service: str) -> bool:
        """Return whether every container of a service passes its own health check."""
        return all(self.passes(service, container) for container in self.containers(service))

    def passes(self, service: str, container: str) -> bool:
        """Return whether one container passes the health check of its service."""
        kind, *test = self.services[service]["healthcheck"]["test"]
        command = test if kind == "CMD" else ["sh", "-c", *test]
        done = subprocess.run(("podman", "exec", container, *command), capture_output=True, timeout=30)
        return done.returncode == 0

    def _has_no_check(self, name: str) -> bool:
        return bool(self.services[name].get("healthcheck", {}).get("disable"))

    def _in_order(self) -> list[str]:
        done: list[str] = []

        def visit(name: str) -> None:
            for needed in self.services[name].get("depends_on", {}):
                visit(needed)
            if name not in done:
                done.append(name)

        for name in self.services:
            visit(name)
        return done

    def _await(self, service: str, condition: str) -> None:
        if condition == "service_healthy":
            eventually(f"{service} is healthy", lambda: self._healthy_or_ended(service), timeout_s=180)
            return
        (name,) = self.containers(service)
        code = podman("wait", name)
        assert code == "0", f"{name} ended with {code}: {self.log(name)}"

    def _healthy_or_ended(self, service: str) -> bool:
        if self.is_healthy(service):
            return True
        for name in self.containers(service):
            state = podman("inspect", "--format", "{{.State.Status}}", name)
            assert state not in ("exited", "stopped"), f"{name} has ended: {self.log(name)}"
        return False

    def log(self, container: str) -> str:
        """Return the end of what a container has said."""
        done = subprocess.run(("podman", "logs", "--tail", "30", container), capture_output=True, text=True)
        return done.stdout + done.stderr

    def _arguments(
        self, name: str, number: int, container: str = "", command: Sequence[str] = ()
    ) -> list[str]:
        service = self.services[name]
        limits = service["deploy"]["resources"]["limits"]
        arguments = ["--name", container or f"{self.project}-{name}-{number}", "--user", str(service["user"])]
        arguments += ["--read-only", "--read-only-tmpfs=false"] * service["read_only"]
        arguments += [f"--cap-drop={each}" for each in service["cap_drop"]]
        arguments += [f"--security-opt={each.removesuffix(':true')}" for each in service["security_opt"]]
        arguments += [
            "--memory",
            limits["memory"],
            "--cpus",
            limits["cpus"],
            "--pids-limit",
            str(limits["pids"]),
        ]
        arguments += ["--stop-signal", service["stop_signal"]] if "stop_signal" in service else []
        arguments += ["--shm-size", service["shm_size"]] if "shm_size" in service else []
        arguments += [f"--network={each}" for each in self._networks(service)] + [f"--network-alias={name}"]
        for variable, value in (service.get("environment") or {}).items():
            arguments += ["--env", f"{variable}={value}"]
        for each in service.get("tmpfs", []):
            arguments += ["--tmpfs", each]
        arguments += [part for volume in self._volumes(service) for part in ("--volume", volume)]
        return [*arguments, service["image"], *(command or service.get("command") or ())]

    def _networks(self, service: Mapping[str, Any]) -> Iterator[str]:
        networks = service["networks"]
        for name in networks:
            options = networks[name] if isinstance(networks, dict) else {}
            yield f"{self.project}-{name}" + (f":ip={options['ipv4_address']}" if options else "")

    def _volumes(self, service: Mapping[str, Any]) -> Iterator[str]:
        for each in service.get("volumes", []):
            source, _, rest = each.partition(":")
            yield f"{ROOT / source}:{rest}" if source.startswith(".") else f"{self.project}-{source}:{rest}"


def images_of(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the images to build on and to run, as the environment names them: TEST_…_IMAGE for the compose
    file's …_IMAGE."""
    names = ("PYTHON", "NODE", "NGINX", "REDIS", "DATABASE", "PROXY")
    found = {f"{name}_IMAGE": environment.get(f"TEST_{name}_IMAGE", "") for name in names}
    return {name: image for name, image in found.items() if image}
