"""The steps of docs/how-to/rotate-secrets.md for Redis's passwords, walked on a real server: nobody is shut
out at any step."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from cli.commands.secrets import secrets
from cli.local import embedded
from cli.local.free_ports import free_port
from tests.support.eventually import eventually

TIMEOUT_S = 60
USERS = ("gateway", "edge", "engine", "feeds", "persist", "operator")


class Deployment:
    """A Redis with the users of a folder of secrets."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.make()
        self._process: subprocess.Popen[bytes] | None = None

    def make(self, *options: str) -> None:
        done = CliRunner().invoke(
            secrets, [str(self._folder), "--redis", f"127.0.0.1:{self._port}", *options]
        )
        assert done.exit_code == 0, done.output

    def restart(self) -> None:
        self.stop()
        command = (
            str(embedded.find_redis_server()),
            *("--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""),
            *("--aclfile", str(self._folder / "redis/users.acl")),
        )
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually("Redis", lambda: answers(f"redis://probe:none@127.0.0.1:{self._port}"), TIMEOUT_S)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT_S)

    def urls(self) -> list[str]:
        return [(self._folder / user / "redis-url").read_text("ascii") for user in USERS]


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.execute_command("PING"))
    except redis.RedisError:
        return False


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path)
    yield found
    found.stop()


def test_redis_passwords_are_rotated_with_nobody_shut_out(deployment: Deployment) -> None:
    deployment.restart()
    before = deployment.urls()
    assert all(map(answers, before))
    deployment.make("--rotate", "redis")
    after = deployment.urls()
    assert not any(map(answers, after))  # the server has not been told
    deployment.restart()
    assert all(map(answers, [*before, *after]))
    deployment.make("--forget", "redis")
    deployment.restart()
    assert all(map(answers, after))
    assert not any(map(answers, before))
