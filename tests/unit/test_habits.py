"""Habits that no linter knows: the width of documents, the files that they name, and names of modules."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIDTH = 100

SHARED_NAMES = {
    "main": "a process or a command line",
    "accounts": "accounts of users: their money, their streams, their keys",
    "markets": "markets, as a package needs them",
    "metrics": "what a package counts for Prometheus",
    "book": "a market's order book",
    "depth": "an order book by price levels",
    "candles": "candles",
    "klines": "candles, as the API calls them",
    "frames": "frames of a stream, decoded and encoded",
    "replies": "replies of shards to those who wait",
    "errors": "errors, as clients see them",
    "rate_limits": "limits of the API",
    "passwords": "passwords of users",
    "attempts": "attempts to sign in",
    "revocations": "credentials that were revoked",
    "mails": "mails to users",
    "connection": "a client's connection",
    "database": "the database, or what stands for it",
    "worker": "the loop of a process on the log",
    "replay": "replaying a shard's log",
    "fanout": "handing updates to those who listen",
    "run": "running a scenario from beginning to end",
    "report": "results, shown and recorded",
    "trading": "what generated traders do",
    "market": "a market",
    "process": "a process of the exchange",
    "signing": "signatures",
    "api_keys": "api keys, as a port and in the database",
    "ingestion": "ingestion, as a port and in the database",
    "ledger": "ledger, as a port and in the database",
    "orders": "orders, as a port and in the database",
    "second_factors": "second factors, as a port and in the database",
    "trades": "trades, as a port and in the database",
    "users": "users, as a port and in the database",
    "door": "the door in front of gateways",
    "activity": "the record of what was done with an account",
    "garbage": "Python's garbage collector",
    "sessions": "sessions of signed-in users",
    "configuration": "the configuration of shards and their markets",
    "transfers": "deposits and withdrawals",
}
"""Module names that several packages use, each in one meaning.

A name with a second meaning is renamed instead.
"""


def test_a_module_name_has_one_meaning() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [
        Path(line) for line in tracked.stdout.splitlines() if not line.startswith(("tests/", "examples/"))
    ]
    names = [path.stem for path in paths if path.stem != "__init__" and path.parent.name != "commands"]
    shared = {name for name in names if names.count(name) > 1}
    assert shared == SHARED_NAMES.keys()


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that can be wrapped, with their numbers: no table, no code."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.lstrip().startswith(("|", "<!--")):
            yield number, line


def too_wide(text: str) -> list[int]:
    return [number for number, line in prose(text) if len(line) > WIDTH and _can_be_wrapped(line)]


def _can_be_wrapped(line: str) -> bool:
    """Return whether it has more than one word: a link, or code in one pair of backticks, is one."""
    words = re.sub(
        r"`[^`]*`", lambda code: code[0].replace(" ", "_"), re.sub(r"^\s*([-*]|\d+\.)?\s*", "", line)
    )
    return len(words.split(maxsplit=1)) > 1


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_no_wider_than_a_terminal(document: Path) -> None:
    assert too_wide(document.read_text("utf-8")) == []


def test_only_what_can_be_wrapped_is_too_wide() -> None:
    wide = "word " * 30
    assert too_wide(f"{wide}\n\n| {wide} |\n\n```\n{wide}\n```\n{'x' * 120}\n") == [1]


@pytest.mark.parametrize(
    "document", ["CONTRIBUTING.md", "README.md", "docs/README.md", "docs/explanation/architecture.md"]
)
def test_files_that_documents_name_exist(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    named = re.findall(r"`([\w.\-]+/[\w./\-]*)`", text)
    named += [str(Path(document).parent / link) for link in re.findall(r"\]\(([\w./\-]+)[#)]", text)]
    made = (".run/", ".venv/")
    assert [path for path in named if not (ROOT / path).exists() and not path.startswith(made)] == []
