from adapters.waiting_requests import WaitingRequests
from protocol.commands import CancelOrder
from protocol.units import AccountId, OrderId

TIMEOUT_S = 5.0


def cancel(number: int) -> CancelOrder:
    return CancelOrder(number, "replies", AccountId(1), "BTCUSDT", OrderId(number), "")


def waiting(*times_s: float) -> WaitingRequests[str]:
    """Requests 1, 2, …, all commands, that begin to wait at these times."""
    requests = WaitingRequests[str](TIMEOUT_S)
    for number, now_s in enumerate(times_s, 1):
        requests.add(number, now_s, f"waiter {number}", cancel(number))
    return requests


def test_a_reply_is_taken_once() -> None:
    requests = waiting(0, 1)
    taken = requests.take(1)
    assert taken is not None
    assert (taken.waiter, requests.waited_s(taken, 3.0)) == ("waiter 1", 3.0)
    assert requests.take(1) is None
    assert len(requests) == 1


def test_the_oldest_time_out_first_and_no_others() -> None:
    requests = waiting(0, 1, 2)
    assert list(requests.expire(4.9)) == []
    assert list(requests.expire(6.0)) == ["waiter 1", "waiter 2"]
    assert list(requests.expire(6.0)) == []
    assert len(requests) == 1


def test_a_request_whose_time_is_up_does_not_wait_even_before_it_is_expired() -> None:
    requests = waiting(0)
    assert requests.is_waiting(1, 4.9)
    assert not requests.is_waiting(1, 5.0)
    assert len(requests) == 1


def test_commands_are_sent_again_by_their_age_and_only_while_somebody_waits() -> None:
    requests = waiting(0, 2, 4)
    requests.add(4, 4.5, "a query's waiter")
    assert [(waited_s, command.request_id) for waited_s, command in requests.commands(0, 4.5)] == [
        (4.5, 1),
        (2.5, 2),
        (0.5, 3),
    ]
    assert [command.request_id for _, command in requests.commands(1.0, 4.5)] == [1, 2]
    assert [command.request_id for _, command in requests.commands(0, 6.0)] == [2, 3]


def test_the_young_are_those_that_have_waited_for_less() -> None:
    assert waiting(0, 2, 4).younger_than(2.5, 4.5) == {3}
    assert waiting(0, 2, 4).younger_than(2.6, 4.5) == {2, 3}
