"""Runs what manifests describe, on this machine: with their commands and their environment, and nothing of
ours.

Other than in a cluster are only: the address to listen on, ports, folders and files, where Redis, the
database and other processes are.
"""

import base64
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import psutil

from cli.local.free_ports import free_port
from protocol.configuration import Role
from runtime.database_roles import ServiceRole, passwords_text
from runtime.key_files import encoded_key
from runtime.operator_keys import public_text
from runtime.settings import PREFIX, Settings
from tests.deploy.manifests import Workload
from tests.support.databases import ROLE_PASSWORDS, service_url

DEADLINE_S: Final = 120
ASK_EVERY_S: Final = 0.1
PORTS: Final = ("rest_port", "ws_port", "frontend_port", "metrics_port")
REPLACED: Final = frozenset(
    {
        "host",
        "data_dir",
        "markets_file",
        "redis_url",
        "cache_url",
        "database_url",
        "master_key",
        "mm_rest_url",
    }
    | {
        "database_role_passwords",
        "database_admin_url",
        "master_key_previous",
        "metrics_host",
        "metrics_password",
    }
    | {"operator_keys", "faucet_key", "operator_key", "treasury_key", *PORTS}
)
"""The settings that are other than in the manifest."""

_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(Settings)}
_SECRETS: Final = (
    *("redis_url", "cache_url", "database_url", "database_role_passwords", "database_admin_url"),
    *("master_key", "master_key_previous", "metrics_password", "operator_keys", "faucet_key"),
)
_KEYS: Final = {role: bytes([role]) * 32 for role in Role}
"""Private keys, where a deployment has its own."""


class Servers(msgspec.Struct, frozen=True):
    """What the processes stand on."""

    redis_url: Callable[[str | None], str]
    """Makes of the manifest's URL, if it has one, that of the test's Redis."""
    database_url: str


class Running:
    """One process."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        self.workload = workload
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {
            name: int(workload.environment.get(PREFIX + name.upper(), str(_DEFAULTS[name]))) for name in PORTS
        }
        self.ports = {number: free_port() for number in settings.values() if number}
        """Where it listens, by the port that it would have in its own container."""
        self._port_settings = {name: self.ports[number] for name, number in settings.items() if number}
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self, servers: Servers, others: Iterable["Running"]) -> dict[str, str]:
        """Return its whole environment."""
        given = self.workload.environment
        values = {name: value for name, value in given.items() if not _is_replaced(name)}
        values |= {PREFIX + name.upper(): str(port) for name, port in self._port_settings.items()}
        values["PATH"] = os.environ["PATH"]
        for name in given:
            setting = name.removeprefix(PREFIX).lower()
            if setting in ("host", "metrics_host"):
                values[name] = "127.0.0.1"
            elif setting == "data_dir":
                if not self.workload.finishes:  # what comes first writes nothing
                    self._inside(given[name])
                values[name] = str(self._folder)
            elif setting == "markets_file":
                values[name] = self._file(given[name], self.workload.files[given[name]] or "")
            elif setting == "mm_rest_url":
                values[name] = _replaced_url(given[name], others)
            elif setting == "operator_keys":
                values[name] = public_text(_KEYS) if "REPLACE-ME" in given[name] else given[name]
            elif setting.removesuffix("_file") in _SECRETS and setting.endswith("_file"):
                self._inside(given[name])
                values[name] = self._file(
                    given[name], _secret(setting, self.workload.files.get(given[name]), servers)
                )
        return values

    def _inside(self, path: str) -> None:
        """Check that something is mounted where the manifest says that a file is, or a folder to write to."""
        folders = self.workload.folders | self.workload.files.keys()
        assert any(Path(path).is_relative_to(folder) for folder in folders), (
            f"{self.workload.name}: nothing is at {path}"
        )

    def _file(self, path: str, content: str) -> str:
        file = self._folder / path.strip("/").replace("/", "-")
        file.write_text(content, "utf-8")
        return str(file)

    def start(self, servers: Servers, others: Iterable["Running"]) -> None:
        """Start it, with its output in a file."""
        command = [sys.executable, "-P", *self.workload.command[1:]]
        with self._log().open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=self.environment(servers, others),
                cwd=self._folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def finish(self) -> None:
        """Wait until it has done its work."""
        assert self._process is not None
        assert self._process.wait(DEADLINE_S) == 0, self.says("it failed")

    def await_ready(self) -> None:
        """Wait until every probe that the manifest has answers 200."""
        assert self.workload.probes, f"{self.workload.name} has no probes"
        deadline = time.monotonic() + DEADLINE_S
        while unready := [answer for answer in map(self._ask, self.workload.probes) if answer]:
            assert self._process is not None
            assert self._process.poll() is None, self.says("it ended")
            assert time.monotonic() < deadline, self.says(f"it is not ready: {unready}")
            time.sleep(ASK_EVERY_S)

    def _ask(self, probe: tuple[int, str]) -> str:
        port, path = probe
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=5):
                return ""
        except urllib.error.HTTPError as error:
            return f"{path}: {error.code} {error.read().decode(errors='replace')}"
        except OSError as error:
            return f"{path}: {error}"

    def listening(self) -> set[int]:
        """Return the ports that it listens on, as they would be in its own container."""
        assert self._process is not None
        found = {
            each.laddr.port
            for each in psutil.Process(self._process.pid).net_connections()
            if each.status == "LISTEN"
        }
        return {number for number, port in self.ports.items() if port in found}

    def says(self, what: str) -> str:
        """Return what happened, with its last words."""
        text = self._log().read_text("utf-8", "replace")[-3000:]
        return f"{self.workload.name}: {what}\n{text}"

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _log(self) -> Path:
        return self._folder / "log"


def _is_replaced(variable: str) -> bool:
    name = variable.removeprefix(PREFIX).lower()
    return name in REPLACED or (name.endswith("_file") and name.removesuffix("_file") in REPLACED)


def _secret(setting: str, content: str | None, servers: Servers) -> str:
    match setting:
        case "redis_url_file" | "cache_url_file":
            return servers.redis_url(content)
        case "database_url_file":
            return _database_url(content, servers.database_url)
        case "database_role_passwords_file":
            return passwords_text(ROLE_PASSWORDS)
        case "database_admin_url_file":
            return servers.database_url
        case "master_key_previous_file":
            return ""
        case "metrics_password_file":
            return content or "of-metrics"
        case "operator_keys_file":
            return content or public_text(_KEYS)
        case "faucet_key_file":
            return content or encoded_key(_KEYS[Role.FAUCET])
        case _:
            return content or base64.urlsafe_b64encode(bytes(32)).decode()


def _database_url(content: str | None, database_url: str) -> str:
    """Return the test's database as the role that the manifest's address has.

    Whoever has none in the manifest is the owner.
    """
    user = urlsplit(content or "").username
    return service_url(database_url, ServiceRole(user)) if user in set(ServiceRole) else database_url


def _replaced_url(url: str, others: Iterable[Running]) -> str:
    """Return where a URL leads to: the process that has this name, or behind somebody else's proxy, the
    gateway."""
    parts = urlsplit(url)
    assert parts.port is not None
    serving = [each for each in others if not each.workload.finishes]
    named = [each for each in serving if parts.hostname in each.workload.answers_to]
    (found, *_) = named or [each for each in serving if each.workload.module == "gateway.main"]
    return f"{parts.scheme}://127.0.0.1:{found.ports[parts.port]}"


def unchanged(workload: Workload, environment: Mapping[str, str]) -> bool:
    """Return whether a process gets what the manifest gives it, but for what is other here."""
    return all(
        environment.get(name) == value
        for name, value in workload.environment.items()
        if not _is_replaced(name)
    )
