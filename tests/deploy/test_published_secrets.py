"""Every key and password that stands in the repository is one that processes refuse, unless they are told
that this is development."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.key_files import decoded_key
from runtime.unsafe_settings import PUBLISHED, is_published_key
from tests.deploy.manifests import of_kubernetes
from tests.deploy.rendered import ROOT, rendered

PLACES = ("k8s", "deploy", "docs", "examples", "docker-compose.yml", "Dockerfile", "README.md")
MODULES = (
    "gateway.main",
    "ws_edge.main",
    "engine_worker.main",
    "feeds.main",
    "persist.main nudge",
    "persist.main work",
)
KEY = re.compile(r"(?<![\w+/-])[A-Za-z0-9_-]{43}=(?!\w)")
PASSWORD = re.compile(
    r"\b(?:rediss?|redis\+\w+|postgresql)://[^\s:/@]*:([^\s@/]+)@|\bon >(\S+)|\bpassword=(\S+)"
)
PLACEHOLDER = re.compile(r"^secrets/|[$…%{<]|^secret$|^old$|^password$", re.IGNORECASE)


def _texts() -> list[tuple[Path, str]]:
    files = (
        file
        for place in PLACES
        for file in ((ROOT / place).rglob("*") if (ROOT / place).is_dir() else [ROOT / place])
    )
    texts = [
        (file, file.read_bytes())
        for file in files
        if file.is_file() and file.suffix not in (".png", ".svg", ".bin")
    ]
    return [(file, text.decode("utf-8", "replace")) for file, text in texts]


def test_every_key_in_the_repository_is_refused() -> None:
    found = {(file.name, key) for file, text in _texts() for key in KEY.findall(text)}
    assert len(found) >= 7  # master, operator, treasury and faucet key, and three public halves
    assert [each for each in found if not is_published_key(decoded_key(each[1], ""))] == []


def test_every_password_in_the_repository_is_refused() -> None:
    found = {
        (file.name, password.strip("\"'`,"))
        for file, text in _texts()
        for match in PASSWORD.finditer(text)
        for password in filter(None, match.groups())
    }
    secret = [each for each in found if not PLACEHOLDER.search(each[1])]
    assert len(secret) >= 2  # of Redis and of the database
    assert [each for each in secret if not each[1].startswith(PUBLISHED)] == []


@pytest.mark.parametrize("overlay", ["local", "minimal"])
def test_overlays_with_published_secrets_say_so_and_production_does_not(overlay: str) -> None:
    processes = [each for each in of_kubernetes(rendered(overlay)) if each.probes and each.module]
    assert processes
    assert all(
        each.environment.get("EXCHANGE_DEVELOPMENT") == "true" for each in processes if each.name != "mm"
    )
    assert not any(
        "EXCHANGE_DEVELOPMENT" in each.environment for each in of_kubernetes(rendered("production"))
    )


@pytest.mark.parametrize("module", MODULES)
def test_a_process_does_not_start_with_them(module: str, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "EXCHANGE_DATA_DIR": str(tmp_path),
        "EXCHANGE_HOST": "0.0.0.0",
        "EXCHANGE_REDIS_URL": f"redis://x:{PUBLISHED}@127.0.0.1:1/0",
        "EXCHANGE_DATABASE_URL": f"postgresql://x:{PUBLISHED}@127.0.0.1:1/x",
    }
    command = [sys.executable, "-P", "-m", *module.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    for setting in ("EXCHANGE_REDIS_URL", "EXCHANGE_DATABASE_URL", "EXCHANGE_DEVELOPMENT=true"):
        assert setting in done.stderr
    assert PUBLISHED not in done.stderr
