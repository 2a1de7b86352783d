"""What the market maker does at the moment: it quotes, or it waits, and why."""

import time
from collections.abc import Callable, Iterable
from enum import StrEnum

import prometheus_client

_paused = prometheus_client.Gauge("mm_paused", "1 while the market maker waits, by what for", ["reason"])
_last_quoted = prometheus_client.Gauge(
    "mm_last_quoted_timestamp_seconds", "When a market was brought up to date last", ["market"]
)


class Pause(StrEnum):
    """The reasons why a market maker waits."""

    EXCHANGE = "exchange"
    """The exchange is away, or takes no orders."""
    KEYS = "keys"
    """Its API keys are refused."""


class Activity:
    """The bot's last activity, as its metrics and probes report it."""

    def __init__(self, quiet_s_max: float, now_s: Callable[[], float] = time.monotonic) -> None:
        """A bot may neither quote nor say why for `quiet_s_max`."""
        self._quiet_s_max = quiet_s_max
        self._now_s = now_s
        self._noted_s = now_s()
        self._has_quoted = False
        self._markets: set[str] = set()
        self._reason: Pause | None = None
        for reason in Pause:
            _paused.labels(reason).set(0)

    def expects(self, markets: Iterable[str]) -> None:
        """Record the markets that it is about to quote; one that is never quoted is quiet from now on."""
        expected = set(markets)
        for market in self._markets - expected:
            _last_quoted.remove(market)
        self._markets &= expected
        for market in sorted(expected):
            if market not in self._markets:
                self._markets.add(market)
                _last_quoted.labels(market).set_to_current_time()

    def quoted(self, market: str) -> None:
        """Record that a market's quotes are up to date."""
        self._noted_s, self._has_quoted = self._now_s(), True
        _last_quoted.labels(market).set_to_current_time()
        self._reason = None
        for reason in Pause:
            _paused.labels(reason).set(0)

    def paused(self, reason: Pause) -> None:
        """Record that the bot waits, and why."""
        self._noted_s, self._reason = self._now_s(), reason
        _paused.labels(reason).set(1)

    def why_not_ready(self) -> str | None:
        """Return why it does not quote, until it has quoted for the first time.

        After that, return a reason only if its activity is unknown.

        Once there are quotes, waiting is as good as quoting: it continues by itself, and its metrics show the
        reason.
        """
        if not self._has_quoted:
            return "it has not quoted yet" + (f", and waits for the {self._reason}" if self._reason else "")
        quiet_s = self._now_s() - self._noted_s
        return (
            f"it has not quoted for {quiet_s:.0f} s, and does not say why"
            if quiet_s > self._quiet_s_max
            else None
        )
