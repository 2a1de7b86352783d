"""What was measured is told as it was: counts, percentiles, steps, failures apart from rate limits."""

from random import Random

import msgspec
import pytest

from loadtests.steps import Plan
from loadtests.summary import LIMITED, OWN_ORDER, PLACE, TRADE, Histogram, Recorder, Summary, markdown

PLAN = Plan(traders=4, watchers=2, seconds=10, steps=2)


def measured() -> Summary:
    recorder = Recorder(PLAN)
    for ms in range(1, 101):
        recorder.request(1, *PLACE, ms)
    for _ in range(10):
        recorder.request(6, *PLACE, 200)
    recorder.request(7, *PLACE, 3, "503 -1007 Timeout")
    recorder.request(7, *LIMITED, 2)
    recorder.request(2, *TRADE, 12.34)
    recorder.request(8, *OWN_ORDER, 4.56)
    recorder.request(11, "DELETE", "openOrders", 9)
    recorder.own_delay(1.5)
    return recorder.summary(11.5, 4, finished=True)


def test_percentiles_are_those_of_the_sorted_list() -> None:
    random = Random(1)
    latencies = [random.expovariate(1 / 40) for _ in range(5_000)]
    histogram = Histogram()
    for ms in latencies:
        histogram.add(ms)
    ranked = sorted(latencies)
    for percent, found in zip((50, 90, 95, 99), histogram.percentiles(50, 90, 95, 99), strict=True):
        assert found == pytest.approx(ranked[-(-len(ranked) * percent // 100) - 1], rel=0.01, abs=0.06)
    assert histogram.largest == ranked[-1]


def test_a_histogram_without_anything_is_zero() -> None:
    assert Histogram().percentiles(50, 99) == [0, 0]


def test_merged_histograms_are_one() -> None:
    parts, whole = [Histogram(), Histogram()], Histogram()
    for number in range(1_000):
        parts[number % 2].add(number / 7)
        whole.add(number / 7)
    parts[0].merge(parts[1])
    assert (parts[0].count, parts[0].largest) == (whole.count, whole.largest)
    assert parts[0].percentiles(10, 50, 99) == whole.percentiles(10, 50, 99)


def test_every_kind_is_counted_and_failures_have_no_latency() -> None:
    summary = measured()
    kinds = {each.kind: each for each in summary.kinds}
    place = kinds["POST order LIMIT"]
    assert (place.count, place.failures, place.p50, place.p99, place.max) == (111, 1, 55, 200, 200)
    assert place.per_second == 11.1
    assert kinds["WS trade -> client"].p50 == 12.3
    assert list(kinds) == [
        *("POST order LIMIT", "DELETE openOrders"),
        *("WS order -> own stream", "429 told to wait", "WS trade -> client"),
    ]


def test_rate_limits_are_no_failures_and_messages_no_requests() -> None:
    summary = measured()
    assert (summary.requests, summary.failures, summary.limited) == (112, 1, 1)
    (error,) = summary.errors
    assert (error.kind, error.message, error.count) == ("POST order LIMIT", "503 -1007 Timeout", 1)


def test_steps_are_told_apart_and_what_comes_after_the_last_belongs_to_none() -> None:
    first, second = measured().steps
    assert (first.traders, first.requests, first.failures, first.place_p50, first.trade_p99) == (
        2,
        100,
        0,
        50,
        12.3,
    )
    assert (second.traders, second.requests, second.failures, second.place_p50, second.own_order_p99) == (
        4,
        11,
        1,
        200,
        4.6,
    )
    assert (first.seconds, first.per_second, second.seconds) == (5, 20, 5)


def test_a_test_that_has_just_begun_has_one_step() -> None:
    recorder = Recorder(PLAN)
    recorder.request(0.4, *PLACE, 1)
    (step,) = recorder.summary(0.5, 1, finished=False).steps
    assert (step.seconds, step.per_second) == (0.5, 2)


def test_the_page_has_every_kind_every_step_and_every_failure() -> None:
    summary = msgspec.structs.replace(
        measured(), began="2026-01-02 03:04 UTC", machine="2 cores", commit="abc"
    )
    page = markdown(summary)
    assert "2026-01-02 03:04 UTC; 2 cores; commit abc." in page
    assert "2 → 4 traders and 2 watchers for 10 s: 112 requests (11.2/s), 1 failures, 1 told to wait" in page
    assert "| POST order LIMIT | 111 | 1 | 11.1 | 55.0 | 99.0 | 200 | 200 | 200 |" in page
    assert "| 4 | 5 | 11 | 2.2 | 1 | 200 | 200 | – | 4.6 |" in page
    assert "| POST order LIMIT | 503 -1007 Timeout | 1 |" in page


def test_the_summary_survives_json() -> None:
    summary = measured()
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary
