"""Links between documents lead to files and headings that exist, and the list of commands is complete."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.main import main as exchange

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples" / "README.md"])


def prose(document: Path) -> str:
    """Return the text of a document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> Iterator[str]:
    """Yield the links of a document that lead to no file or to no heading."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        is_broken = not target.exists() or (anchor and anchor not in anchors(target))
        if is_broken:
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    assert list(broken_links(document)) == []


def test_a_link_without_its_file_or_heading_is_found(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("# A `b`\n\n[1](#a-b) [2](#c) [3](other.md) [4](https://example.com)\n", "utf-8")
    assert list(broken_links(document)) == ["#c", "other.md"]


def test_the_list_of_commands_is_complete() -> None:
    rows = re.findall(
        r"^\| ((?:`[\w-]+`(?:, )?)+) \|", prose(ROOT / "docs/reference/commands.md"), re.MULTILINE
    )
    listed = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert sorted(listed) == sorted(exchange.list_commands(click.Context(exchange)))
