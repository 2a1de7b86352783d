"""The workflows are what the runner understands, run only what is there, and may do only what they need."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rendered import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAY_WRITE = {"images.yml": {"packages", "id-token"}, "release.yml": {"contents"}}
FROM_OUTSIDE = {"gh"}
"""Programs that the runner has."""
MADE_BEFORE = re.compile(r"^\.venv/bin/(python|hatchling)$")


def mistakes(name: str, workflow: dict[str, Any]) -> Iterator[str]:
    """Return what is wrong with a workflow, a line each."""
    if workflow.get("permissions") != {"contents": "read"}:
        yield "its jobs may do more than read unless they say so"
    for job in workflow["jobs"].values():
        if "timeout-minutes" not in job:
            yield "a job has no end"
        for scope, access in job.get("permissions", {}).items():
            if access != "read" and scope not in MAY_WRITE.get(name, set()):
                yield f"a job may write {scope}"
        for step in job["steps"]:
            yield from _of_step(step)


def _of_step(step: dict[str, Any]) -> Iterator[str]:
    if not ("uses" in step) ^ ("run" in step):
        yield "a step does nothing, or two things"
    if "uses" in step and not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"]):
        yield f"{step['uses']} is not pinned to a commit"
    if (
        step.get("uses", "").startswith("actions/checkout@")
        and step.get("with", {}).get("persist-credentials") is not False
    ):
        yield "the checkout keeps the token"
    if "${{ github.event" in step.get("run", "") or "${{ github.head_ref" in step.get("run", ""):
        yield "a command is put together from what anybody may write"
    for command in filter(None, step.get("run", "").splitlines()):
        program, *arguments = command.split()
        if program == "make":
            targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
            yield from (f"make has no target {each}" for each in arguments[:1] if each not in targets)
        elif "/" in program and not MADE_BEFORE.match(program):
            if not (ROOT / program).exists():
                yield f"there is no {program}"
            elif not (ROOT / program).stat().st_mode & 0o100:
                yield f"{program} is no program"
        elif "/" not in program and program not in FROM_OUTSIDE:
            yield f"{program} may not be there"
        for each in arguments:
            if each.startswith("tests/") and not (ROOT / each).exists():
                yield f"there is no {each}"


def test_there_are_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["checks.yml", "images.yml", "release.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_there_and_may_do_no_more_than_it_needs(path: Path) -> None:
    assert list(mistakes(path.name, yaml.safe_load(path.read_text("utf-8")))) == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_runner_understands_it(path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ({"uses": "actions/checkout@v6", "with": {"persist-credentials": False}}, "is not pinned"),
        ({"uses": "actions/checkout@" + 40 * "0"}, "keeps the token"),
        ({"run": "make tset"}, "no target tset"),
        ({"run": "scripts/no-such"}, "there is no scripts/no-such"),
        ({"run": "scripts/setup dev\n.venv/bin/python -m pytest tests/no-such"}, "there is no tests/no-such"),
        ({"run": "curl somewhere"}, "may not be there"),
        ({"run": "scripts/release check ${{ github.event.issue.title }}"}, "anybody may write"),
    ],
)
def test_the_check_finds_what_is_planted(step: dict[str, Any], what: str) -> None:
    jobs = {"planted": {"timeout-minutes": 1, "steps": [step]}}
    found = list(mistakes("checks.yml", {"permissions": {"contents": "read"}, "jobs": jobs}))
    assert len(found) == 1
    assert what in found[0]


def test_a_job_that_may_write_is_found() -> None:
    jobs = {"planted": {"timeout-minutes": 1, "permissions": {"contents": "write"}, "steps": []}}
    assert list(mistakes("checks.yml", {"permissions": {"contents": "read"}, "jobs": jobs})) == [
        "a job may write contents"
    ]
    assert list(mistakes("checks.yml", {"jobs": {}})) == ["its jobs may do more than read unless they say so"]


def test_every_python_that_is_supported_is_checked() -> None:
    (checks, *_) = WORKFLOWS
    matrix = yaml.safe_load(checks.read_text("utf-8"))["jobs"]["checks"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
