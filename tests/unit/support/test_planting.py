"""Plants replace the piece of a function that they name, however it is written; they say so when it is not
there.
"""

import sys
from types import ModuleType

import pytest

from tests.support.planting import OutOfDateError, Plant, grow, planted

RATE = 3


class Till:
    def __init__(self) -> None:
        self.sums: list[int] = []

    def add(self, amount: int, *, is_free: bool = False) -> int:
        """Add an amount and its fee."""
        fee = -(-amount * RATE // 100)  # rounded up
        if is_free:
            fee = 0
        self.sums.append(amount + fee)
        self.sums.append(0)
        return amount + fee


def wrongly(right: str, wrong: str, place: int | None = None) -> Plant:
    return Plant("", Till, "add", right, wrong, place)


def added(amount: int, *, is_free: bool = False) -> tuple[int, list[int]]:
    till = Till()
    return till.add(amount, is_free=is_free), till.sums


def test_an_expression_is_replaced_however_it_is_written() -> None:
    assert added(50) == (52, [52, 0])
    with planted([wrongly("-(-amount*RATE//100)", "amount * RATE // 100")]):
        assert added(50) == (51, [51, 0])
    assert added(50) == (52, [52, 0])


def test_statements_are_replaced_and_taken_away() -> None:
    with planted([wrongly("if is_free: fee = 0", "pass")]):
        assert added(50, is_free=True) == (52, [52, 0])
    with planted([wrongly("self.sums.append(amount + fee)\nself.sums.append(0)", "self.sums.append(7)")]):
        assert added(50) == (52, [7])


def test_a_call_that_stands_alone_may_become_a_statement() -> None:
    with planted([wrongly("self.sums.append(0)", "pass")]):
        assert added(50) == (52, [52])


def test_the_place_says_which_of_several() -> None:
    with planted([wrongly("amount + fee", "amount", place=1)]):
        assert added(50) == (50, [52, 0])


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (wrongly("amount - fee", "amount"), "'amount - fee' is not in Till.add"),
        (wrongly("amount // 100", "amount"), "is not in Till.add"),
        (wrongly("rounded", "amount"), "is not in Till.add"),
        (wrongly("if is_free: fee = 1", "pass"), "is not in Till.add"),
        (wrongly("amount + fee", "amount"), "is in Till.add 2 times; say which one"),
        (wrongly("amount + fee", "amount", place=2), "is in Till.add 2 times, there is no place 2"),
    ],
)
def test_what_is_not_there_or_not_alone_is_out_of_date(plant: Plant, reason: str) -> None:
    with pytest.raises(OutOfDateError, match=reason):
        grow(plant)


def test_only_functions_are_planted_into() -> None:
    with (
        pytest.raises(OutOfDateError, match="RATE is no function"),
        planted([Plant("", module(), "RATE", "3", "4")]),
    ):
        pass


def test_the_grown_function_sees_what_the_right_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    with planted([wrongly("self.sums.append(0)", "pass")]):
        monkeypatch.setitem(Till.__init__.__globals__, "RATE", 10)
        assert added(50) == (55, [55])


def test_errors_in_it_are_shown_at_its_own_lines() -> None:
    grown = grow(wrongly("self.sums.append(0)", "1 / 0"))
    with pytest.raises(ZeroDivisionError) as error:
        grown(Till(), 50)
    assert str(error.traceback[-1].path) == __file__
    assert str(error.traceback[-1].statement).strip() == "self.sums.append(0)"


def module() -> ModuleType:
    return sys.modules[__name__]
