"""The measurements of a load test: counted while it runs, and shown as a table, Markdown and JSON. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from loadtests.steps import Plan

METHODS: Final = frozenset({"GET", "POST", "DELETE"})
"""Locust's request types that are requests; others are messages that came by themselves."""
SET_UP: Final = frozenset({"exchangeInfo", "price", "signup", "signin", "faucet", "api-keys"})
"""Names of the requests that a trader begins with."""
LIMITED: Final = ("429", "told to wait")
"""Type and name of requests that the exchange's rate limits refused."""
PLACE: Final = ("POST", "order LIMIT")
TRADE: Final = ("WS", "trade -> client")
OWN_ORDER: Final = ("WS", "order -> own stream")
_OTHER_STEP: Final = -1
"""Stands for measurements after the last step."""
_MESSAGE_LENGTH: Final = 200


def kind_of(request_type: str, name: str) -> str:
    """Return how a kind of request is called here."""
    return f"{request_type} {name}"


class Histogram:
    """Latencies in ms, with three digits or a tenth of a millisecond; its size does not grow with time."""

    def __init__(self) -> None:
        self.count = 0
        self.largest = 0.0
        self._counts: Counter[float] = Counter()

    def add(self, ms: float) -> None:
        """Count one."""
        self.count += 1
        self.largest = max(self.largest, ms)
        self._counts[round(ms, 1 if ms < 100 else 0 if ms < 1_000 else -1)] += 1

    def merge(self, other: "Histogram") -> None:
        """Count all that `other` has counted."""
        self.count += other.count
        self.largest = max(self.largest, other.largest)
        self._counts.update(other._counts)

    def percentiles(self, *percents: int) -> list[float]:
        """Return the latency that each of the ascending `percents` of the measurements do not exceed.

        0 without measurements.
        """
        found: list[float] = []
        wanted = list(percents)
        reached = 0
        for ms in sorted(self._counts):
            reached += self._counts[ms]
            while wanted and reached * 100 >= self.count * wanted[0]:
                found.append(ms)
                wanted.pop(0)
        return found or [0.0] * len(percents)


class Kind(msgspec.Struct, frozen=True):
    """One kind of request or message; latencies, in ms, are those of the ones that did not fail."""

    kind: str
    count: int
    failures: int
    per_second: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Step(msgspec.Struct, frozen=True):
    """One step: number of traders, duration so far, and results.

    Latencies in ms, 0 without measurements.
    """

    traders: int
    seconds: float
    requests: int
    failures: int
    per_second: float
    place_p50: float
    place_p99: float
    trade_p99: float
    own_order_p99: float


class Failure(msgspec.Struct, frozen=True):
    """A way to fail, and how often it was met."""

    kind: str
    message: str
    count: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A load test so far, or as it was."""

    finished: bool
    elapsed: float
    seconds: float
    traders: int
    """Traders now, and of the last step when it has finished."""
    traders_max: int
    watchers: int
    requests: int
    per_second: float
    failures: int
    """Requests and streams that failed; rate limits that told clients to wait are not failures."""
    limited: int
    own_delay_p99: float
    own_delay_max: float
    """The load generator's own maximum delay in ms, which may be part of every latency."""
    kinds: list[Kind]
    steps: list[Step]
    errors: list[Failure]
    began: str = ""
    machine: str = ""
    commit: str = ""


class _Tally:
    def __init__(self) -> None:
        self.failures = 0
        self.latencies = Histogram()

    def merge(self, other: "_Tally") -> None:
        self.failures += other.failures
        self.latencies.merge(other.latencies)


class Recorder:
    """Counts what happens during a load test; times are seconds since its begin."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._tallies: dict[tuple[int, str, str], _Tally] = {}
        self._errors: Counter[tuple[str, str]] = Counter()
        self._own_delays = Histogram()

    def request(self, elapsed: float, request_type: str, name: str, ms: float, error: object = None) -> None:
        """Count a request or a message that took `ms`; `error`, when there is one, makes it a failure."""
        step = self._plan.step_at(elapsed)
        tally = self._tallies.setdefault(
            (_OTHER_STEP if step is None else step, request_type, name), _Tally()
        )
        if error is None:
            tally.latencies.add(ms)
        else:
            tally.failures += 1
            self._errors[kind_of(request_type, name), str(error)[:_MESSAGE_LENGTH]] += 1

    def own_delay(self, ms: float) -> None:
        """Note that the load generator itself woke up `ms` too late."""
        self._own_delays.add(ms)

    def summary(self, elapsed: float, traders: int, *, finished: bool) -> Summary:
        """Return the results so far."""
        seconds = max(min(elapsed, self._plan.seconds), 0.001)
        totals = self._totals()
        requests = sum(
            each.latencies.count + each.failures for (of, _), each in totals.items() if of in METHODS
        )
        (own_delay_p99,) = self._own_delays.percentiles(99)
        return Summary(
            finished=finished,
            elapsed=round(elapsed, 1),
            seconds=self._plan.seconds,
            traders=traders,
            traders_max=self._plan.traders,
            watchers=self._plan.watchers,
            requests=requests,
            per_second=round(requests / seconds, 1),
            failures=sum(each.failures for each in totals.values()),
            limited=totals[LIMITED].latencies.count if LIMITED in totals else 0,
            own_delay_p99=own_delay_p99,
            own_delay_max=round(self._own_delays.largest, 1),
            kinds=[_kind(*of, totals[of], seconds) for of in sorted(totals, key=_order)],
            steps=list(self._steps(elapsed)),
            errors=[Failure(kind, message, count) for (kind, message), count in self._errors.most_common()],
        )

    def _totals(self, *steps: int) -> dict[tuple[str, str], _Tally]:
        """Return the counts of these steps; of all, if none is named."""
        totals: dict[tuple[str, str], _Tally] = {}
        for (step, request_type, name), tally in self._tallies.items():
            if not steps or step in steps:
                totals.setdefault((request_type, name), _Tally()).merge(tally)
        return totals

    def _steps(self, elapsed: float) -> Iterator[Step]:
        length = self._plan.seconds / self._plan.steps
        for number in range(self._plan.steps):
            seconds = min(elapsed - number * length, length)
            if seconds <= 0:
                return
            totals = self._totals(number)
            requests = sum(
                each.latencies.count + each.failures for (of, _), each in totals.items() if of in METHODS
            )
            place_p50, place_p99 = _percentiles(totals, PLACE, 50, 99)
            (trade_p99,), (own_order_p99,) = (_percentiles(totals, of, 99) for of in (TRADE, OWN_ORDER))
            yield Step(
                traders=self._plan.traders_in(number),
                seconds=round(seconds, 1),
                requests=requests,
                failures=sum(each.failures for each in totals.values()),
                per_second=round(requests / seconds, 1),
                place_p50=place_p50,
                place_p99=place_p99,
                trade_p99=trade_p99,
                own_order_p99=own_order_p99,
            )


def _order(of: tuple[str, str]) -> tuple[bool, bool, bool, str, str]:
    """Orders first, then other requests, then what a trader begins with, then messages and the rest."""
    request_type, name = of
    return request_type not in METHODS, name in SET_UP, not name.startswith("order"), name, request_type


def _percentiles(totals: dict[tuple[str, str], _Tally], of: tuple[str, str], *percents: int) -> list[float]:
    return (totals[of] if of in totals else _Tally()).latencies.percentiles(*percents)


def _kind(request_type: str, name: str, tally: _Tally, seconds: float) -> Kind:
    count = tally.latencies.count + tally.failures
    p50, p90, p95, p99 = tally.latencies.percentiles(50, 90, 95, 99)
    return Kind(
        kind=kind_of(request_type, name),
        count=count,
        failures=tally.failures,
        per_second=round(count / seconds, 1),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=round(tally.latencies.largest, 1),
    )


def figure(ms: float) -> str:
    """Return a latency as a table shows it; nothing was measured where it is 0."""
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms else "–"


def markdown(summary: Summary) -> str:
    """Return the summary as a page."""
    sections = [
        "# Load test",
        f"{summary.began}; {summary.machine}; commit {summary.commit}.",
        f"{' → '.join(str(each.traders) for each in summary.steps)} traders and {summary.watchers} watchers "
        f"for {min(summary.elapsed, summary.seconds):.0f} s: {summary.requests:,} requests "
        f"({summary.per_second:.1f}/s), {summary.failures} failures, {summary.limited} told to wait by rate "
        "limits (429).",
        f"The load generator itself was late by {figure(summary.own_delay_p99)} ms (p99), at most "
        f"{figure(summary.own_delay_max)} ms: so much of every latency may be its own.",
        "## Kinds",
        "Latencies in ms, of what did not fail.",
        _table(
            ("kind", "count", "failures", "per s", "p50", "p90", "p95", "p99", "max"),
            [
                (
                    *(each.kind, f"{each.count:,}", str(each.failures), f"{each.per_second:.1f}"),
                    *(figure(ms) for ms in (each.p50, each.p90, each.p95, each.p99, each.max)),
                )
                for each in summary.kinds
            ],
        ),
        "## Steps",
        _table(
            (
                *("traders", "s", "requests", "per s", "failures", "place p50", "place p99"),
                *(f"{name} p99" for _, name in (TRADE, OWN_ORDER)),
            ),
            [
                (
                    *(
                        str(each.traders),
                        f"{each.seconds:.0f}",
                        f"{each.requests:,}",
                        f"{each.per_second:.1f}",
                    ),
                    str(each.failures),
                    *(
                        figure(ms)
                        for ms in (each.place_p50, each.place_p99, each.trade_p99, each.own_order_p99)
                    ),
                )
                for each in summary.steps
            ],
        ),
    ]
    if summary.errors:
        rows = [(each.kind, each.message.replace("|", "/"), str(each.count)) for each in summary.errors]
        sections += ["## Failures", _table(("kind", "message", "count"), rows)]
    return "\n\n".join(sections) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (columns, ("---", *("---:" for _ in columns[1:])), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
