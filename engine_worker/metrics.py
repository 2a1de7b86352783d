"""A worker's metrics, for Prometheus: counted per batch, never per order."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

STAGE_BUCKETS: Final = (
    *(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
_SIZE_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)

LEADER: Final = Gauge("engine_leader", "1: this worker leads the shard; 0: it stands by", ["shard"])
CORE: Final = Gauge("engine_core", "1: the worker runs this implementation of the core", ["shard", "core"])
EPOCH: Final = Gauge("engine_epoch", "The epoch in which this worker leads; 0: it does not", ["shard"])
TAKEOVERS: Final = Counter("engine_takeovers", "Times that this worker has taken the shard over", ["shard"])
FRUITLESS_TAKEOVERS: Final = Gauge(
    "engine_fruitless_takeovers",
    "Workers in turn that have taken the shard over and committed nothing, when this one did",
    ["shard"],
)
STANDBYS: Final = Gauge("engine_standbys", "Standbys of the shard, as its leader sees them", ["shard"])
LAG: Final = Gauge(
    "engine_standby_lag_seconds", "How far a standby is behind the committed position", ["shard"]
)
DIFFERS: Final = Gauge(
    "engine_standby_differs",
    "1: this worker follows no more, since its state is not the leader's; 0: it is, as far as it was "
    "compared",
    ["shard"],
)

ENTRIES: Final = Histogram(
    "engine_batch_entries", "Stream entries in one batch", ["shard"], buckets=_SIZE_BUCKETS
)
BATCH_COMMANDS: Final = Histogram(
    "engine_batch_commands", "Commands and messages in one batch", ["shard"], buckets=_SIZE_BUCKETS
)
COMMANDS: Final = Counter("engine_commands", "Commands and messages committed by this worker", ["shard"])
STAGE: Final = Histogram(
    "engine_stage_seconds",
    "How long a batch took: wait (in the input, of its oldest entry), apply, commit, deliver (messages to "
    "other shards)",
    ["shard", "stage"],
    buckets=STAGE_BUCKETS,
)

ACCEPTED: Final = Counter("engine_orders_accepted", "Orders that the shard has given a number", ["shard"])
TRADES: Final = Counter("engine_trades", "Trades", ["shard", "market"])
RESTING: Final = Gauge("engine_resting_orders", "Orders in the book", ["shard", "market"])

UNSTORED: Final = Gauge(
    "engine_unstored_orders", "Closed orders that are kept until the database has them", ["shard"]
)
UNSTORED_LOST: Final = Counter(
    "engine_unstored_orders_lost",
    "Closed orders that were dropped before the database had them; queries for such get -1007 until it has",
    ["shard"],
)

DIFFERENCE: Final = Gauge(
    "engine_money_difference",
    "Units of an asset that are there beyond (or, below 0, short of) deposits - withdrawals + settlements; 0 "
    "is right",
    ["shard", "asset"],
)
CONSERVED: Final = Gauge("engine_money_conserved", "1: the shard's money adds up in every asset", ["shard"])
HELD: Final = Gauge(
    "engine_held_format",
    "The format of an entry that this worker cannot read and waits with; 0: there is none",
    ["shard"],
)
DEAD_LETTERS: Final = Gauge("engine_dead_letters", "Dead letters that are kept for the shard", ["shard"])

SNAPSHOT_TIME: Final = Gauge(
    "engine_snapshot_timestamp_seconds", "When the shard's newest snapshot was saved", ["shard"]
)
SNAPSHOT_BEHIND: Final = Gauge(
    "engine_snapshot_behind_seconds",
    "How much of the log, in its own time, a start would apply after it",
    ["shard"],
)
SNAPSHOT_DURATION: Final = Gauge(
    "engine_snapshot_duration_seconds",
    "How long this worker's last snapshot took to write, beside the matching",
    ["shard"],
)
SNAPSHOT_BYTES: Final = Gauge("engine_snapshot_bytes", "Size of this worker's last snapshot", ["shard"])
SNAPSHOT_FAILURES: Final = Counter("engine_snapshot_failures", "Snapshots that could not be saved", ["shard"])
FORK_SECONDS: Final = Gauge(
    "engine_snapshot_fork_seconds", "How long it took to start the process of the last snapshot", ["shard"]
)


class BatchMetrics:
    """The metrics of one shard's worker per batch; looked up once."""

    def __init__(self, shard: int) -> None:
        FRUITLESS_TAKEOVERS.labels(shard)
        TAKEOVERS.labels(shard)  # at 0, so that the first one is visible as an increase
        DIFFERS.labels(shard)
        self._held = HELD.labels(shard)
        self._held_format = -1
        self._entries = ENTRIES.labels(shard)
        self._batch_commands = BATCH_COMMANDS.labels(shard)
        self._commands = COMMANDS.labels(shard)
        self._wait, self._apply, self._commit, self._deliver = (
            STAGE.labels(shard, stage) for stage in ("wait", "apply", "commit", "deliver")
        )

    def committed(
        self, entries: int, commands: int, waited_s: float, apply_s: float, commit_s: float
    ) -> None:
        """Count a batch."""
        self._entries.observe(entries)
        self._batch_commands.observe(commands)
        self._commands.inc(commands)
        self._wait.observe(max(0.0, waited_s))
        self._apply.observe(apply_s)
        self._commit.observe(commit_s)

    def held(self, number: int) -> None:
        """Set the format of an unreadable entry, 0 if there is none."""
        if number != self._held_format:
            self._held_format = number
            self._held.set(number)

    def delivered(self, deliver_s: float) -> None:
        """Count that a batch's messages have reached the other shards."""
        self._deliver.observe(deliver_s)
