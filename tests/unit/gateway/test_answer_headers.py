"""What every answer of an endpoint says of request weight, and what a request weighs."""

import time
from typing import Any, Final, cast

import pytest

from adapters.clock import now_us
from adapters.rate_limits import RateLimits
from adapters.wiring import Surroundings
from functions.api.errors import ApiError, invalid_symbol
from functions.api.function import Function, Group
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from functions.orders import cancel_open_orders, cancel_order, check_order, place_order
from gateway.endpoint import Endpoint, HttpAnswer, HttpRequest
from protocol.units import TimeMs
from runtime.settings import Settings

ADDRESS: Final = "192.0.2.1"


class Gateway:
    """One function behind limits."""

    def __init__(self, function: Function, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.ports, self.limits, self.signers = self, RateLimits(self.settings), None
        self._endpoint = Endpoint(function, cast("Surroundings", self))

    async def ask(self, query: bytes = b"") -> HttpAnswer:
        """Ask as the door lets a request in: charged what path and method say."""
        now = now_us()
        self.limits.charge(ADDRESS, self._endpoint.least_weight, TimeMs(now // 1000))
        return await self._endpoint.answer(HttpRequest(ADDRESS, [], query, b"", now, time.perf_counter()))


def used(answer: HttpAnswer) -> tuple[int, int]:
    """Return the status, and the weight that both headers say."""
    values = {
        value for name, value in answer.headers if name in (b"x-mbx-used-weight", b"x-mbx-used-weight-1m")
    }
    (value,) = values
    return answer.status, int(value)


async def refuse_some(_ports: Ports, call: Call) -> object:
    if "refuse" in call.parameters:
        raise invalid_symbol()
    return {}


def function(**properties: Any) -> Function:
    return Function("GET", "/test", Group.ORDERS, "Test", refuse_some, lenient=True, **properties)


async def test_what_succeeds_weighs_nothing_and_what_is_refused_does() -> None:
    gateway = Gateway(function(weight=5, weighs_nothing_done=True))
    assert [used(await gateway.ask(query)) for query in (b"", b"refuse=1", b"", b"refuse=1")] == [
        (200, 0), (400, 5), (200, 5), (400, 10),
    ]  # fmt: skip
    other = Gateway(function(weight=5))  # the control: any other function
    assert [used(await other.ask()) for _ in range(2)] == [(200, 5), (200, 10)]


def test_orders_and_cancels_are_such() -> None:
    for each in (place_order.FUNCTION, cancel_order.FUNCTION, cancel_open_orders.FUNCTION):
        assert each.weighs_nothing_done
    assert not check_order.FUNCTION.weighs_nothing_done


async def test_every_answer_has_the_weight() -> None:
    """Also 429, and what is refused before its weight is known.

    What the door refuses, tests/integration/gateway/test_door.py sees.
    """
    gateway = Gateway(function(weight=lambda _: 3), request_weight_per_minute=4)
    assert used(await gateway.ask(b"a=1&a=2")) == (400, 1)
    assert used(await gateway.ask()) == (200, 4)
    with pytest.raises(ApiError, match="Too much request weight used"):
        await gateway.ask()
    dear = Gateway(function(weight=lambda _: 5), request_weight_per_minute=4)
    assert used(await dear.ask()) == (429, 5)


async def test_nothing_is_said_where_nothing_is_limited() -> None:
    answer = await Gateway(function(), rate_limits_enabled=False).ask()
    assert not [name for name, _ in answer.headers if name.startswith(b"x-mbx")]


@pytest.mark.parametrize(
    ("sent", "weight"),
    [({}, 1), ({"computeCommissionRates": "false"}, 1), ({"computeCommissionRates": "true"}, 20)],
)
def test_what_testing_an_order_weighs(sent: dict[str, str], weight: int) -> None:
    assert check_order.FUNCTION.weight_of(Parameters(sent)) == weight


def test_a_weight_that_cannot_be_told() -> None:
    with pytest.raises(ApiError):
        check_order.FUNCTION.weight_of(Parameters({"computeCommissionRates": "perhaps"}))
