"""A load test in a separate process: writes its progress, one line of JSON per second, and its result.

The lines are `loadtests.summary.Summary`.
"""

import argparse
import signal
import sys
import time
from typing import Final

# Before all else: locust replaces what blocks by what does not.
import locust  # isort: skip

import gevent
import msgspec
from locust import User
from locust.env import Environment
from locust.runners import STATE_STOPPED

from loadtests.locustfile import AccountWatcher, MarketWatcher, Steps, Trader, set_watchers
from loadtests.steps import Plan
from loadtests.summary import Recorder

TELL_EVERY_S: Final = 1.0
STOP_S_MAX: Final = 15
OWN_DELAY_EVERY_S: Final = 0.05


def run(plan: Plan) -> None:
    """Run the load test to its end, or until SIGINT or SIGTERM."""
    set_watchers(plan)
    environment = Environment(
        user_classes=[Trader, MarketWatcher, AccountWatcher],
        shape_class=Steps(plan),
        events=locust.events,
        stop_timeout=STOP_S_MAX,
    )
    recorder = Recorder(plan)
    began = time.monotonic()

    def request(
        request_type: str, name: str, response_time: float, exception: object = None, **_others: object
    ) -> None:
        recorder.request(time.monotonic() - began, request_type, name, response_time, exception)

    def user_error(user_instance: User, exception: BaseException, **_others: object) -> None:
        recorder.request(time.monotonic() - began, "user", type(user_instance).__name__, 0, repr(exception))

    environment.events.request.add_listener(request)
    environment.events.user_error.add_listener(user_error)
    runner = environment.create_local_runner()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, runner.stop)

    def tell(*, finished: bool) -> None:
        traders = plan.traders if finished else runner.user_classes_count.get(Trader.__name__, 0)
        summary = recorder.summary(time.monotonic() - began, traders, finished=finished)
        sys.stdout.buffer.write(msgspec.json.encode(summary) + b"\n")
        sys.stdout.buffer.flush()

    runner.start_shape()
    measuring = gevent.spawn(_measure_own_delay, recorder)
    while runner.state != STATE_STOPPED:
        gevent.sleep(TELL_EVERY_S)
        tell(finished=False)
    measuring.kill()
    tell(finished=True)


def _measure_own_delay(recorder: Recorder) -> None:
    while True:
        due = time.monotonic() + OWN_DELAY_EVERY_S
        gevent.sleep(OWN_DELAY_EVERY_S)
        recorder.own_delay((time.monotonic() - due) * 1000)


def main() -> None:
    """Read the plan and run it."""
    parser = argparse.ArgumentParser(description="Put load on the running exchange.")
    parser.add_argument("--traders", type=int, default=Plan().traders)
    parser.add_argument("--watchers", type=int, default=Plan().watchers)
    parser.add_argument("--seconds", type=float, default=Plan().seconds)
    parser.add_argument("--steps", type=int, default=Plan().steps)
    run(Plan(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
