"""Handlers know no table and no column: SQL is in adapters/, behind the ports of functions/repositories/."""

from importlib import resources
from pathlib import Path

import pytest

from tests.support.sql_statements import sql_in


def sql_of(package: str) -> dict[str, list[str]]:
    """Return what reads as SQL, by file."""
    folder = Path(str(resources.files(package)))
    found = {
        str(file.relative_to(folder)): list(sql_in(file.read_text("utf-8"))) for file in folder.rglob("*.py")
    }
    return {file: texts for file, texts in found.items() if texts}


def test_no_sql_is_in_functions() -> None:
    assert sql_of("functions") == {}


def test_repositories_are_where_it_is() -> None:
    """The control: the same search finds it in the file of adapters/ that has the repository's name."""
    names = {file.name for file in Path(str(resources.files("functions.repositories"))).glob("[a-z]*.py")}
    assert names <= sql_of("adapters").keys()


@pytest.mark.parametrize(
    "source",
    [
        'async def get(ports):\n    return await ports.anything("SELECT price FROM trades")',
        '_STATEMENT = f"""\n    SELECT {COLUMNS} FROM trades WHERE market = 1\n"""',
        '_STATEMENT = """\n    WITH gone AS (DELETE FROM sessions RETURNING account_id) SELECT account_id '
        'FROM gone\n"""',
        '_WHERE = "market = %(market)s"',
    ],
)
def test_planted_sql_is_found(source: str) -> None:
    assert list(sql_in(source))


def test_what_is_said_of_selecting_is_no_sql() -> None:
    assert not list(sql_in('"""Select what is wanted from the trades, 5 % of them."""'))
