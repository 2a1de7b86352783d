"""One version, told in one place; a release is a commit, a tag and a section of the changelog."""

import json
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from tests.deploy.rendered import ROOT, VERSION


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with what a release touches."""
    names = ("pyproject.toml", "CHANGELOG.md", "scripts/release", "k8s/components/release/kustomization.yaml")
    for name in (*names, "tests/golden/format_2.json"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((ROOT / name).read_bytes())
    (tmp_path / "scripts/release").chmod(0o755)
    for arguments in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "Begin")):
        _run(tmp_path, "git", *arguments)
    return tmp_path


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    author = {
        f"GIT_{who}_{what}": "test@example.com"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | author
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def _released_in() -> str | None:
    released_in: str | None = json.loads((ROOT / "tests/golden/format_2.json").read_text("utf-8"))[
        "released_in"
    ]
    return released_in


def test_the_program_says_the_version_of_pyproject() -> None:
    assert metadata.version("exchange") == VERSION
    done = _run(ROOT, ".venv/bin/exchange", "--version")
    assert done.stdout.strip() == f"exchange, version {VERSION}"


def test_the_changelog_has_a_section_for_the_version() -> None:
    heading = "Unreleased" if VERSION.endswith(".dev0") else VERSION
    sections = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert heading in sections


def test_a_release_is_a_tag_with_its_section_and_the_next_version_begins(checkout: Path) -> None:
    unreleased = _run(checkout, "scripts/release", "notes", "99.0.0")
    assert unreleased.returncode == 1
    done = _run(checkout, "scripts/release", "tag", "99.1.2")
    assert done.returncode == 0, done.stderr

    assert 'version = "99.2.0.dev0"' in (checkout / "pyproject.toml").read_text("utf-8")
    images = (checkout / "k8s" / "components" / "release" / "kustomization.yaml").read_text("utf-8")
    assert images.count("newTag: 99.2.0.dev0\n") == 2
    written = json.loads((checkout / "tests/golden/format_2.json").read_text("utf-8"))
    assert written["released_in"] == (_released_in() or "99.1.2")
    assert _run(checkout, "scripts/release", "check", "99.1.2").returncode == 1
    assert _run(checkout, "git", "status", "--porcelain").stdout == ""

    _run(checkout, "git", "checkout", "--quiet", "v99.1.2")
    assert _run(checkout, "scripts/release", "check", "99.1.2").returncode == 0
    notes = _run(checkout, "scripts/release", "notes", "99.1.2").stdout
    assert "`exchange restore`" in notes
    assert "## [" not in notes
    changelog = (checkout / "CHANGELOG.md").read_text("utf-8")
    assert re.search(
        r"^## \[Unreleased\]\n\n## \[99\.1\.2\] - \d{4}-\d\d-\d\d\n\n### Added\n", changelog, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("0.0.1", "older"),
        ("1.2", "name a version"),
        ("", "name a version"),
        ("1.2.3; touch x", "name a version"),
    ],
)
def test_what_is_no_next_version_is_refused(checkout: Path, version: str, why: str) -> None:
    before = _run(checkout, "git", "rev-parse", "HEAD").stdout
    done = _run(checkout, "scripts/release", "tag", version)
    assert done.returncode == 1
    assert why in done.stderr
    assert _run(checkout, "git", "rev-parse", "HEAD").stdout == before


def test_what_is_not_committed_is_not_released(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("changed", "utf-8")
    done = _run(checkout, "scripts/release", "tag", "99.1.2")
    assert done.returncode == 1
    assert "not committed" in done.stderr


def test_a_version_is_released_once(checkout: Path) -> None:
    assert _run(checkout, "scripts/release", "tag", "99.1.2").returncode == 0
    done = _run(checkout, "scripts/release", "tag", "99.1.2")
    assert done.returncode == 1
    assert "exists already" in done.stderr
