"""Several processes on one Redis admit together what a limit lets them, and know of each other."""

import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

from adapters.limit_exchange import _DRAW
from adapters.shares import EMPTY, Draw, Word, drawn, reserve_of
from tests.support.own_servers import OwnRedis

NOW = 1_795_400_005_000
"""In the middle of a window: none ends meanwhile, whatever the machine does."""
FRESH_S = 0.1
TIMEOUT_S = 60


class Limited:
    """A process that works under limits."""

    def __init__(self, url: str, *, shares: bool, **settings: int) -> None:
        pairs = [f"{name.upper()}={value}" for name, value in settings.items()]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.limited_process",
                url,
                str(NOW),
                "shared" if shares else "alone",
                *pairs,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout

    def tell(self, line: str) -> None:
        self._in.write(line + "\n")
        self._in.flush()

    def hear(self) -> str:
        return self._out.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.hear()

    def attempt(self, line: str) -> tuple[int, int, float]:
        """Return how often it was admitted and refused, and the seconds that took."""
        return self.result(self.ask(line))

    def result(self, line: str) -> tuple[int, int, float]:
        admitted, refused, seconds = line.split()
        return int(admitted), int(refused), float(seconds)


@pytest.fixture
def start(own_redis: OwnRedis) -> Iterator["Starting"]:
    with ExitStack() as stack:
        yield Starting(own_redis.settings.resolved_redis_url(), stack)


class Starting:
    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self._stack = stack

    def __call__(self, count: int = 3, *, shares: bool = True, **settings: int) -> list[Limited]:
        started = [Limited(self.url, shares=shares, **settings) for _ in range(count)]
        for each in started:
            self._stack.callback(each.process.wait, TIMEOUT_S)
            self._stack.callback(each.process.kill)
        for each in started:
            assert each.hear() == "ready"
        return started


def all_at_once(processes: list[Limited], line: str) -> tuple[int, int]:
    """Return how often all together were admitted, and refused."""
    for each in processes:
        each.tell(line)
    results = [each.result(each.hear()) for each in processes]
    return sum(result[0] for result in results), sum(result[1] for result in results)


@pytest.mark.parametrize("weight", [1, 7])
def test_what_three_processes_admit_is_the_limit(start: Starting, weight: int) -> None:
    processes = start(request_weight_per_minute=2_000)
    admitted, refused = all_at_once(processes, f"charge 192.0.2.1 {weight} 100000")
    assert 2_000 - weight < admitted * weight <= 2_000
    assert refused >= 3


def test_so_it_is_for_orders_which_the_smallest_limits_have(start: Starting) -> None:
    processes = start(orders_per_10s=10, orders_per_day=15)
    assert all_at_once(processes, "order 1001 100")[0] == 10
    assert all_at_once(processes, "order 1001 100")[0] == 0
    assert processes[0].ask("forgive 1001") == "None"
    time.sleep(FRESH_S)
    assert all_at_once(processes, "order 1001 100")[0] == 1
    assert all_at_once(processes, "order 1002 100")[0] == 10


def test_the_control_processes_that_do_not_share_admit_more(start: Starting) -> None:
    processes = start(shares=False, request_weight_per_minute=2_000)
    assert all_at_once(processes, "charge 192.0.2.1 1 100000")[0] == 6_000


def test_what_others_do_is_known_within_100_ms(start: Starting) -> None:
    first, second, third = start()
    for each in (first, second):
        assert each.attempt("charge 192.0.2.1 1 1")[:2] == (1, 0)
    ages = []
    for count in range(1, 8):
        assert first.attempt("charge 192.0.2.1 1 10")[:2] == (10, 0)
        began = time.monotonic()
        while second.ask("used 192.0.2.1") != str(2 + 10 * count):
            assert time.monotonic() - began < TIMEOUT_S
        ages.append(time.monotonic() - began)
    assert sorted(ages)[len(ages) // 2] < FRESH_S, ages  # the machine may be busy for a moment
    assert first.attempt("order 1001 5")[:2] == (5, 0)
    time.sleep(FRESH_S)
    assert third.ask("orders 1001") == "5 5"  # it has never heard of this account


def test_a_process_that_dies_takes_along_at_most_its_share(start: Starting) -> None:
    first, second = start(2, request_weight_per_minute=6_000)
    assert first.attempt("charge 192.0.2.1 1 1000")[:2] == (1_000, 0)
    time.sleep(FRESH_S)
    first.process.kill()
    first.process.wait()
    admitted, _, seconds = second.attempt("charge 192.0.2.1 1 100000")
    assert 5_000 - 600 <= admitted <= 5_000, "a share is at most a tenth of the limit"
    assert seconds < TIMEOUT_S


def test_what_one_holds_that_has_stopped_asking_is_handed_back(start: Starting) -> None:
    first, second = start(2, request_weight_per_minute=1_000)
    assert first.attempt("charge 192.0.2.1 1 300")[:2] == (300, 0)
    assert second.attempt("charge 192.0.2.1 1 100000")[0] == 700


def test_the_control_a_process_that_stands_still_hands_nothing_back(start: Starting) -> None:
    first, second = start(2, request_weight_per_minute=1_000)
    assert first.attempt("charge 192.0.2.1 1 300")[:2] == (300, 0)
    time.sleep(FRESH_S)
    first.process.send_signal(signal.SIGSTOP)
    try:
        admitted, refused, seconds = second.attempt("charge 192.0.2.1 1 100000")
    finally:
        first.process.send_signal(signal.SIGCONT)
    assert admitted < 700
    assert refused >= 20
    assert seconds < 10, "whoever is refused waits for a moment only, and only once"


def test_without_redis_a_process_goes_on_by_itself(start: Starting, own_redis: OwnRedis) -> None:
    first, second = start(2, request_weight_per_minute=1_000)
    for each in (first, second):
        assert each.attempt("charge 192.0.2.1 1 100")[:2] == (100, 0)
    time.sleep(2 * FRESH_S)
    own_redis.kill()
    admitted = [each.attempt("charge 192.0.2.1 1 100000")[0] for each in (first, second)]
    assert 0 < sum(admitted) <= 800, "each takes its part of what was left"
    assert min(admitted) > 100
    own_redis.start()
    time.sleep(2)
    assert all_at_once([first, second], "charge 192.0.2.9 1 100000")[0] == 1_000


def test_the_script_does_what_the_arithmetic_says(own_redis: OwnRedis) -> None:
    dice = random.Random(7)
    with redis.Redis.from_url(own_redis.settings.resolved_redis_url()) as client:
        script = client.register_script(_DRAW)
        for _ in range(20):
            key, pot, limit = (
                f"rate:{{0}}:weight:{secrets.token_hex(8)}:1",
                EMPTY,
                dice.choice([1, 7, 100, 6_000]),
            )
            for _ in range(60):
                draw = Draw(
                    limit, dice.randint(-3, 9), dice.randint(-5, 9), dice.randint(0, 20), dice.randint(0, 40)
                )
                given, after = drawn(pot, draw)
                _, used, returned, needed, wished = draw
                arguments = [limit, reserve_of(limit), used, returned, needed, wished, 60_000]
                assert script([key], ["test", *arguments]) == [
                    given,
                    *after._replace(version=pot.version + 1),
                ]
                pot = Word(*after)
            assert 0 < client.pttl(key) <= 60_000
