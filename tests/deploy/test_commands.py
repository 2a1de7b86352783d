"""Every command of docs/how-to/deploy-on-kubernetes.md, run by `kubectl` in the order of the page, against a
stand-in for the API server."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.api_server import RUNS_NOTHING, ApiServer
from tests.deploy.rendered import OVERLAYS, ROOT, kubectl

PAGE: Final = ROOT / "docs" / "how-to" / "deploy-on-kubernetes.md"
TRIED: Final = "## Try it on a local cluster"
REAL: Final = "## Deploy to production"
STUBS: Final = ("docker", "kind", "curl")
"""Programs that the page calls, and that have nothing to do with the cluster."""
KUBECTL: Final = f"""#!/bin/sh
# `exec` and `port-forward` succeed when the stand-in has found the pod and the container that they name.
said=$(mktemp)
{{kubectl}} "$@" 2>"$said" && code=0 || code=$?
cat "$said" >&2
! grep -q "{RUNS_NOTHING}" "$said" || code=0
rm "$said"
exit $code
"""
EXCHANGE: Final = f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m cli.main "$@"\n'
TIMEOUT_S: Final = 120


def blocks(page: str, section: str, end: str) -> list[str]:
    """Return the commands between two headings, block by block."""
    text = page[page.index(section) : page.index(end) if end else None]
    return re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(commands: list[str], folder: Path, server: ApiServer) -> subprocess.CompletedProcess[str]:
    """Run blocks of commands in one shell, which ends at the first that fails."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    ours = {"kubectl": KUBECTL.format(kubectl=kubectl()), "exchange": EXCHANGE}
    for name, text in {**ours, **dict.fromkeys(STUBS, "#!/bin/sh\n")}.items():
        (programs / name).write_text(text, "utf-8")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "KUBECONFIG": str(server.kubeconfig),
        "HOME": str(folder),
    }
    script = "\n".join(["set -euo pipefail", *commands, "wait"])
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the page's commands read."""
    for name in ("k8s", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ApiServer]]:
    """A copy, and a stand-in that has the overlay `local`."""
    folder = tmp_path_factory.mktemp("applied")
    for name in ("k8s", "deploy"):
        shutil.copytree(ROOT / name, folder / name)
    with ApiServer(folder, operators=False) as server:
        done = run(["kubectl apply -k k8s/overlays/local"], folder, server)
        assert done.returncode == 0, done.stderr
        yield folder, server


def test_the_page_has_commands() -> None:
    page = PAGE.read_text("utf-8")
    assert len(blocks(page, TRIED, REAL)) >= 4
    assert len(blocks(page, REAL, "")) >= 10
    assert not re.search(r"^```(sh|bash|console)", page, re.MULTILINE)


def test_what_is_said_for_a_try_works(tree: Path) -> None:
    with ApiServer(tree, operators=False) as server:
        done = run(blocks(PAGE.read_text("utf-8"), TRIED, REAL), tree, server)
        assert done.returncode == 0, done.stderr
        assert "exec gateway-0 exchange demo-account" in server.asked
        forwarded = [each.split()[1] for each in server.asked if each.startswith("portforward")]
        assert sorted(set(forwarded)) == ["frontend-0", "gateway-0", "ws-edge-0"]


def test_what_is_said_for_real_works(tree: Path) -> None:
    page = PAGE.read_text("utf-8")
    with ApiServer(tree, operators=True) as server:
        done = run(["version=0.1.0.dev0", *blocks(page, REAL, "")], tree, server)
        assert done.returncode == 0, done.stderr
        assert [
            each
            for each in server.beside["restore"]
            if not each.startswith(("redis-", "sentinel-", "frontend-", "migrate-"))
        ] == []
        scaled = {
            each["metadata"]["name"]: each["spec"].get("replicas")
            for (plural, _, _), each in server.objects.items()
            if plural in ("deployments", "statefulsets")
        }
        assert {name: scaled[name] for name in ("engine-0", "gateway-orders", "feeds", "persist-worker")} == {
            "engine-0": 2,
            "gateway-orders": 2,
            "feeds": 1,
            "persist-worker": 2,
        }


@pytest.mark.parametrize("overlay", ["local", "minimal"])
def test_a_restore_meets_no_process_in_any_overlay(overlay: str, tree: Path) -> None:
    page = PAGE.read_text("utf-8")
    (restore,) = (each for each in blocks(page, REAL, "") if "--from=cronjob/restore" in each)
    with ApiServer(tree, operators=False) as server:
        done = run([f"kubectl apply -k k8s/overlays/{overlay}", restore], tree, server)
        assert done.returncode == 0, done.stderr
        left = [
            each.rpartition("-")[0] for each in server.beside["restore"] if not each.startswith("migrate-")
        ]
        assert set(left) == {"redis", "redis-cache", "timescaledb", "frontend"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_applied_again_is_unchanged(overlay: str, tree: Path) -> None:
    """But for PodDisruptionBudgets: kubectl replaces their selectors each time, by the same."""
    command = f"kubectl apply -k k8s/overlays/{overlay}"
    with ApiServer(tree, operators=True) as server:
        first = run([command], tree, server)
        again = run([command], tree, server)
        assert (first.returncode, again.returncode) == (0, 0), again.stderr
        assert "Warning" not in first.stderr + again.stderr
        others = [each for each in again.stdout.splitlines() if not each.startswith("poddisruptionbudget")]
        assert [each for each in others if not each.endswith(" unchanged")] == []


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "kubectl -n exchange wait --for=condition=Complete job/migrate-0.1.0.dev0 --timeout=5s",
            "not found",
        ),
        ("kubectl -n exchange annotate scaledobject persist-worker a=b", "doesn't have a resource type"),
        ("kubectl -n exchange scale deployment gateway-order --replicas=0", "not found"),
        ("kubectl -n exchange exec deploy/persist-nudger -c nudger -- exchange shards", "not valid for pod"),
        ("kubectl -n exchange port-forward service/gateways 8000", "not found"),
        ("kubectl -n exchange create job restore --from=cronjob/restores", "not found"),
        ("kubectl apply -k k8s/overlays/locals", "not a valid directory"),
        (
            "sed -i 's/storage: 8Gi/storage: 9Gi/' k8s/components/redis-single/redis.yaml; kubectl apply -k "
            "k8s/overlays/local",
            "immutable",
        ),
        ("kubectl -n exchange wait --for=delete pod -l exchange/process=true --timeout=2s", "timed out"),
    ],
)
def test_a_command_that_is_wrong_fails(command: str, says: str, applied: tuple[Path, ApiServer]) -> None:
    done = run([command], *applied)
    assert done.returncode != 0
    assert says in done.stderr


def test_claims_without_their_defaults_are_configured_again_and_again(tree: Path) -> None:
    file = tree / "k8s" / "components" / "redis-single" / "redis.yaml"
    text = file.read_text("utf-8")
    assert "        volumeMode: Filesystem\n" in text
    file.write_text(text.replace("        volumeMode: Filesystem\n", ""), "utf-8")
    with ApiServer(tree, operators=False) as server:
        again = run(["kubectl apply -k k8s/overlays/local"] * 2, tree, server)
        assert "statefulset.apps/redis configured" in again.stdout
