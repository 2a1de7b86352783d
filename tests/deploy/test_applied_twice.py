"""A changed setting, market, image or password is applied by plain `kubectl apply`: nothing that cannot be
changed is changed."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.cluster import pods
from tests.deploy.immutable import refusals
from tests.deploy.rendered import OVERLAYS, ROOT, Object, named, of_kind, render, rendered

MARKET: Final = """
[[markets]]
symbol = "LTCUSDT"
base = "LTC"
quote = "USDT"
tick_size = "0.01"
lot_size = "0.001"
price_max = "100000"
quantity_min = "0.001"
quantity_max = "90000"
notional_min = "5"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what Kustomize reads."""
    for name in ("k8s", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def edit(tree: Path, file: str, pattern: str, replacement: str) -> None:
    path = tree / "k8s" / file
    text, count = re.subn(pattern, replacement, path.read_text("utf-8"), flags=re.MULTILINE)
    assert count, (file, pattern)
    path.write_text(text, "utf-8")


def setting(tree: Path) -> None:
    edit(tree, "base/common/settings.env", "LOG_FORMAT=json", "LOG_FORMAT=text")


def market(tree: Path) -> None:
    edit(tree, "base/common/markets.toml", r"\Z", MARKET)


def version(tree: Path) -> None:
    edit(tree, "components/release/kustomization.yaml", r"newTag: 0\.1.*", "newTag: 9.9.9.dev0")


def password(tree: Path) -> None:
    edit(
        tree,
        "components/development-secrets/kustomization.yaml",
        "(:|password=)development-only",
        r"\g<1>changed",
    )
    edit(tree, "components/development-secrets/users.acl", r"on #\w", "on #0")


def registry(tree: Path) -> None:
    edit(tree, "overlays/production/kustomization.yaml", "registry.example.com", "registry.example.org")


CHANGES: Final = (setting, market, version, password, registry)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_applied(change: Callable[[Path], None], overlay: str, tree: Path) -> None:
    change(tree)
    after = render(tree / "k8s" / "overlays" / overlay)
    if (change, overlay) not in [
        (password, "production"),
        *((registry, each) for each in ("local", "minimal")),
    ]:
        assert after != rendered(overlay)
    assert refusals(rendered(overlay), after) == []


@pytest.mark.parametrize("change", [setting, market, version])
def test_the_restore_that_waits_has_what_was_applied_last(change: Callable[[Path], None], tree: Path) -> None:
    change(tree)
    after = render(tree / "k8s" / "overlays" / "local")
    assert (
        named(after, "CronJob", "restore")["spec"] != named(rendered("local"), "CronJob", "restore")["spec"]
    )
    assert named(after, "CronJob", "restore")["spec"]["suspend"] is True


def test_another_version_migrates_anew_and_another_setting_does_not(tree: Path) -> None:
    def job() -> str:
        (found,) = of_kind(render(tree / "k8s" / "overlays" / "local"), "Job")
        return str(found["metadata"]["name"])

    first = job()
    setting(tree)
    market(tree)
    assert job() == first
    version(tree)
    assert job() != first


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_of_pods_are_names_of_hosts(overlay: str) -> None:
    """Kubernetes warns of a dot in the name of a pod's owner at each apply."""
    for pod in pods(rendered(overlay)):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", pod.name), pod.name
    (migrate,) = of_kind(rendered(overlay), "Job")
    assert re.fullmatch(r"migrate-[a-z0-9]{10}", migrate["metadata"]["name"])
    assert "annotations" not in migrate["metadata"]  # Kustomize's own mark is not sent to the cluster


# What it was like before


def name_by_version(tree: Path) -> None:
    """The Job had the version in its name, and read the settings from a ConfigMap whose name carries a
    hash.
    """
    edit(tree, "base/common/migrate.yaml", r"  annotations:\n.*needsHashSuffix.*\n", "")
    edit(
        tree,
        "base/common/migrate.yaml",
        r"^( +)env:",
        r"\1envFrom: [{configMapRef: {name: settings}}]\n\1env:",
    )


@pytest.mark.parametrize("change", [setting, version])
def test_a_job_without_a_hash_is_refused(change: Callable[[Path], None], tree: Path) -> None:
    name_by_version(tree)
    before = render(tree / "k8s" / "overlays" / "local")
    change(tree)
    assert refusals(before, render(tree / "k8s" / "overlays" / "local")) == ["Job migrate: spec.template"]


def storage(objects: list[Object]) -> None:
    claim = named(objects, "StatefulSet", "redis")["spec"]["volumeClaimTemplates"][0]
    claim["spec"]["resources"]["requests"]["storage"] = "9Gi"


@pytest.mark.parametrize(
    ("refused", "change"),
    [
        ("StatefulSet redis: spec.volumeClaimTemplates", storage),
        (
            "StatefulSet redis: spec.serviceName",
            lambda all_: named(all_, "StatefulSet", "redis")["spec"].update(serviceName="other"),
        ),
        (
            "Deployment feeds: spec.selector",
            lambda all_: named(all_, "Deployment", "feeds")["spec"]["selector"].update(
                matchLabels={"a": "b"}
            ),
        ),
        (
            "Service redis: spec.clusterIP",
            lambda all_: named(all_, "Service", "redis")["spec"].pop("clusterIP"),
        ),
        (
            "PriorityClass exchange-core: value",
            lambda all_: named(all_, "PriorityClass", "exchange-core").update(value=1),
        ),
    ],
)
def test_what_cannot_be_changed_is_found(refused: str, change: Callable[[list[Object]], object]) -> None:
    after = rendered("local")
    change(after)
    assert refusals(rendered("local"), after) == [refused]
