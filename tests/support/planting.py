"""Bugs that tests plant into the code, bound to nodes of its syntax.

A plant names a function, the piece of it that is right, and what is wrong in its place. Both are Python: an
expression, or statements. The piece is looked for in the function's syntax tree, so formatting, comments and
line breaks do not matter. There must be exactly one such piece, unless the plant says which one it means;
otherwise the plant is out of date, and the test that uses it fails.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest


class OutOfDateError(Exception):
    """The code has changed: the piece that a plant replaces is not there, or not alone."""


class Plant(NamedTuple):
    """A bug: in `owner.method`, `right` becomes `wrong`.

    Both are expressions, or one or several statements in a row. `place` counts from 0 on, in the order of the
    source, and is given when there are several equal pieces.
    """

    bug: str
    owner: type | ModuleType
    method: str
    right: str
    wrong: str
    place: int | None = None


def grow(plant: Plant) -> Any:
    """Return the function with the bug in it.

    Raises:
        OutOfDateError: the piece is not there, or there are several and the plant does not say which one.
    """
    function = inspect.unwrap(getattr(plant.owner, plant.method))
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    _replace(tree, plant)
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    grown: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(tree), function.__code__.co_filename, "exec")
    exec(code, function.__globals__, grown)
    return grown[plant.method]


@contextmanager
def planted(plants: Iterable[Plant]) -> Iterator[None]:
    """Plant some bugs, each into another function, for as long as this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for plant in plants:
            if not isinstance(getattr(plant.owner, plant.method), FunctionType):
                raise OutOfDateError(f"{plant.method} is no function of {plant.owner.__name__}")
            patch.setattr(plant.owner, plant.method, grow(plant))
        yield


def _replace(tree: ast.Module, plant: Plant) -> None:
    right, wrong = _parsed(plant.right), _parsed(plant.wrong)
    if isinstance(right, ast.expr) and isinstance(wrong, ast.expr):
        _replace_expression(tree, right, wrong, plant)
    else:
        _replace_statements(tree, _statements(right), _statements(wrong), plant)


def _parsed(piece: str) -> ast.expr | list[ast.stmt]:
    """Return an expression as one, and everything else as statements."""
    statements = ast.parse(textwrap.dedent(piece)).body
    if len(statements) == 1 and isinstance(statements[0], ast.Expr):
        return statements[0].value
    return statements


def _statements(piece: ast.expr | list[ast.stmt]) -> list[ast.stmt]:
    return [ast.Expr(piece)] if isinstance(piece, ast.expr) else piece


def _replace_expression(tree: ast.Module, right: ast.expr, wrong: ast.expr, plant: Plant) -> None:
    wanted = ast.dump(right)
    found = [
        (node, name, number, child)
        for node in _in_order(tree)
        for name, number, child in _children(node)
        if isinstance(child, ast.expr) and ast.dump(child) == wanted
    ]
    node, name, number, replaced = found[_chosen(len(found), plant)]
    _move(wrong, replaced)
    if number is None:
        setattr(node, name, wrong)
    else:
        getattr(node, name)[number] = wrong


def _replace_statements(tree: ast.Module, right: list[ast.stmt], wrong: list[ast.stmt], plant: Plant) -> None:
    wanted, length = [ast.dump(each) for each in right], len(right)
    found = [
        (block, at)
        for node in _in_order(tree)
        for block in _blocks(node)
        for at in range(len(block) - length + 1)
        if [ast.dump(each) for each in block[at : at + length]] == wanted
    ]
    block, at = found[_chosen(len(found), plant)]
    for statement in wrong:
        _move(statement, block[at])
    block[at : at + length] = wrong


def _move(piece: ast.AST, replaced: ast.AST) -> None:
    """Give a piece the place in the source that the replaced one has, for tracebacks."""
    for node in ast.walk(piece):
        if "lineno" in node._attributes:
            ast.copy_location(node, replaced)


def _chosen(count: int, plant: Plant) -> int:
    where = f"{plant.owner.__name__}.{plant.method}"
    if not count:
        raise OutOfDateError(f"the plant is out of date: {plant.right!r} is not in {where}")
    if plant.place is None:
        if count > 1:
            raise OutOfDateError(
                f"the plant is ambiguous: {plant.right!r} is in {where} {count} times; say which one by "
                "`place`"
            )
        return 0
    if plant.place >= count:
        raise OutOfDateError(
            f"the plant is out of date: {plant.right!r} is in {where} {count} times, there is no place "
            f"{plant.place}"
        )
    return plant.place


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, in the order of the source."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def _children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    """Yield the nodes right below one: (field, place in the field's list or None, child)."""
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            yield name, None, value
        elif isinstance(value, list):
            for number, child in enumerate(value):
                if isinstance(child, ast.AST):
                    yield name, number, child


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the lists of statements right below a node."""
    for _, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield value
