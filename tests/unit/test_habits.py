"""Habits that no linter knows: the width of documents, the files that they name, and names of modules."""

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from protocol.streams import KEYS

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
    "fees": "fees of trades",
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
    "build": "building what is not Python",
}
"""Module names that several packages use, each in one meaning.

A name with a second meaning is renamed instead.
"""


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def shared_names(paths: Iterable[str]) -> set[str]:
    """Return the names that several modules have, commands and entry points aside."""
    names = [
        Path(path).stem
        for path in paths
        if not path.startswith(("tests/", "examples/")) and Path(path).parent.name != "commands"
    ]
    return {name for name in names if names.count(name) > 1 and name != "__init__"}


def test_a_module_name_has_one_meaning() -> None:
    assert shared_names(tracked("*.py")) == SHARED_NAMES.keys()


def test_a_second_module_of_a_name_is_found() -> None:
    assert shared_names(["mm/guard.py", "persist/guard.py", "persist/rows.py", "tests/rows.py"]) == {"guard"}


def modules_with_helpers(sources: Mapping[str, str]) -> list[str]:
    """Return which of the `sources`, by path, import something from a module of tests."""
    return [
        path
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        and node.module is not None
        and node.module.startswith("tests.")
        and node.module.rpartition(".")[2].startswith("test_")
    ]


def test_helpers_of_tests_are_in_support() -> None:
    assert (
        modules_with_helpers({path: (ROOT / path).read_text("utf-8") for path in tracked("tests/*.py")}) == []
    )


def test_a_helper_of_a_test_module_is_found() -> None:
    sources = {"a.py": "from tests.unit.test_habits import tracked", "b.py": "from tests.support import keys"}
    assert modules_with_helpers(sources) == ["a.py"]


def placements(sources: Mapping[str, str]) -> list[str]:
    """Return which of the `sources`, by path, place an account by its number and not by its slot."""
    return [
        path
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mod)
        and "account_id" in ast.unparse(node.left)
        and ast.unparse(node.right) != "ACCOUNT_SLOTS"
    ]


def test_accounts_are_placed_by_their_slots_alone() -> None:
    paths = [path for path in tracked("*.py") if not path.startswith("tests/")]
    assert placements({path: (ROOT / path).read_text("utf-8") for path in paths}) == []


def test_an_account_that_is_placed_otherwise_is_found() -> None:
    assert placements({"a.py": "shard = order.account_id % count", "b.py": "even = number % 2"}) == ["a.py"]


def granted(acl: str) -> set[str]:
    """Return the first parts of the keys that the users of services are granted."""
    services = [line for line in acl.splitlines() if " $commands" in line]
    return set(re.findall(r" ~([\w{}]+?)(?::\*|\*)", "\n".join(services)))


def test_every_key_is_granted_to_a_service_and_no_other() -> None:
    acl = (ROOT / "cli" / "redis_users.acl").read_text("utf-8")
    assert granted(acl) - {"*"} == KEYS.keys()


def test_a_key_that_nobody_may_write_is_found() -> None:
    assert granted("user a ~in:* ~{dramatiq}* $commands\nuser b allkeys") == {"in", "{dramatiq}"}


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
