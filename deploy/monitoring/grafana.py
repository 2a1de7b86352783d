"""Grafana's dashboards as code, and the alerts for the Prometheus operator.

`python deploy/monitoring/grafana.py` writes dashboards/*.json. Plain dictionaries in Grafana's own form. A
test compares what is committed with what this makes.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

FOLDER: Final = Path(__file__).resolve().parent
_COLUMNS: Final = 24
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_RATE: Final = "$__rate_interval"

Json = dict[str, Any]


class Query(NamedTuple):
    """What a line shows: an expression, and its name with `{{label}}`s."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """A panel; `alarm` colours what is at or above it, or with `below` what is below it."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    alarm: float | None = None
    below: bool = False
    stacked: bool = False


class Row(NamedTuple):
    """A heading and the panels below it."""

    title: str
    panels: Sequence[Panel]


class Variable(NamedTuple):
    """What may be chosen at the top: the values of a metric's label."""

    label: str
    metric: str


def quantiles(metric: str, by: str = "", where: str = "") -> list[Query]:
    """Return the median and the 99th of a hundred, by a label or of all."""
    legend = f" {{{{{by}}}}}" if by else ""
    names = f"le, {by}" if by else "le"
    matchers = f"{{{where}}}" if where else ""
    return [
        Query(
            f"histogram_quantile({part}, sum by ({names}) (rate({metric}_bucket{matchers}[{_RATE}])))",
            f"p{name}{legend}",
        )
        for part, name in (("0.5", "50"), ("0.99", "99"))
    ]


def rate(metric: str, by: str = "", where: str = "") -> Query:
    """Return how often something happens per second, by a label or all together."""
    matchers = f"{{{where}}}" if where else ""
    grouped = f" by ({by})" if by else ""
    return Query(f"sum{grouped} (rate({metric}{matchers}[{_RATE}]))", f"{{{{{by}}}}}" if by else "all")


ORDER: Final = 'function="POST /api/v3/order"'
SHARD: Final = 'shard=~"$shard"'

DASHBOARDS: Final[dict[str, tuple[str, Sequence[Variable], Sequence[Row]]]] = {
    "exchange": (
        "Exchange: overview",
        [],
        [
            Row(
                "Now",
                [
                    Panel(
                        "Orders accepted",
                        [rate("gateway_orders_total", where='answer="accepted"')],
                        "ops",
                        "stat",
                        4,
                    ),
                    Panel("Trades", [rate("engine_trades_total")], "ops", "stat", 4),
                    Panel(
                        "Order latency, p99",
                        quantiles("gateway_request_seconds", where=ORDER)[1:],
                        "s",
                        "stat",
                        4,
                        0.25,
                    ),
                    Panel(
                        "Shards with a leader",
                        [Query("sum(engine_leader)")],
                        "none",
                        "stat",
                        4,
                        1,
                        below=True,
                    ),
                    Panel(
                        "Money adds up",
                        [Query("min(engine_money_conserved)")],
                        "bool_yes_no",
                        "stat",
                        4,
                        1,
                        below=True,
                    ),
                    Panel(
                        "Processes not ready",
                        [Query("count(exchange_ready == 0) or vector(0)")],
                        "none",
                        "stat",
                        4,
                        1,
                    ),
                ],
            ),
            Row(
                "Orders",
                [
                    Panel("Orders by answer", [rate("gateway_orders_total", "answer")], "ops", stacked=True),
                    Panel("Latency of an order", quantiles("gateway_request_seconds", where=ORDER), "s"),
                    Panel("Trades by market", [rate("engine_trades_total", "market")], "ops", stacked=True),
                ],
            ),
            Row(
                "An order's way, p99 of each stage",
                [
                    Panel("Gateway", quantiles("gateway_stage_seconds", "stage")[1:], "s"),
                    Panel("Shard", quantiles("engine_stage_seconds", "stage")[1:], "s"),
                    Panel(
                        "Until it is published and stored",
                        [
                            Query(query.expression, query.legend + name)
                            for name, metric in (
                                (" published", "feeds_delay_seconds"),
                                (" stored", "persist_delay_seconds"),
                            )
                            for query in quantiles(metric)
                        ],
                        "s",
                    ),
                ],
            ),
            Row(
                "Requests",
                [
                    Panel("Requests by function", [rate("gateway_requests_total", "function")], "reqps"),
                    Panel(
                        "Requests by status",
                        [rate("gateway_requests_total", "status")],
                        "reqps",
                        stacked=True,
                    ),
                    Panel(
                        "Latency by function, p99", quantiles("gateway_request_seconds", "function")[1:], "s"
                    ),
                ],
            ),
            Row(
                "The door",
                [
                    Panel(
                        "Refused at the door",
                        [rate("gateway_refusals_total", "reason")],
                        "reqps",
                        stacked=True,
                    ),
                    Panel(
                        "Connections, of those possible",
                        [Query("gateway_connections / gateway_connections_max", "{{instance}}")],
                        "percentunit",
                        alarm=0.8,
                    ),
                    Panel(
                        "Requests that ask for their part of a limit",
                        [rate("limits_asked_total", "instance")],
                        "reqps",
                    ),
                    Panel("Limits counted alone", [Query("limits_alone", "{{instance}}")], "none", alarm=1),
                ],
            ),
            Row(
                "Backlogs and processes",
                [
                    Panel(
                        "Oldest command that waits",
                        [Query("max by (shard) (gateway_backlog_age_seconds)", "{{shard}}")],
                        "s",
                        alarm=1,
                    ),
                    Panel(
                        "Requests that wait for a reply", [Query("gateway_pending_requests", "{{instance}}")]
                    ),
                    Panel(
                        "Processor",
                        [Query(f"rate(process_cpu_seconds_total[{_RATE}])", "{{instance}}")],
                        "percentunit",
                    ),
                    Panel("Memory", [Query("process_resident_memory_bytes", "{{instance}}")], "bytes"),
                    Panel(
                        "Not reached: Redis",
                        [Query("1 - exchange_redis_reachable", "{{process}}")],
                        "none",
                        alarm=1,
                    ),
                    Panel(
                        "Versions",
                        [
                            Query(
                                "count by (process, version) (exchange_build_info)", "{{process}} {{version}}"
                            )
                        ],
                        "none",
                    ),
                ],
            ),
            Row(
                "Market maker",
                [
                    Panel("Spread", [Query("mm_spread_ratio", "{{market}}")], "percentunit"),
                    Panel("Open quotes", [Query("mm_open_quotes", "{{market}} {{side}}")]),
                    Panel(
                        "Quotes placed and canceled",
                        [
                            Query(query.expression, f"{query.legend} {name}")
                            for name in ("placed", "canceled")
                            for query in [rate(f"mm_quotes_{name}_total", "market")]
                        ],
                        "ops",
                    ),
                    Panel("Quotes refused", [rate("mm_quotes_refused_total", "market")], "ops"),
                    Panel("Waits", [Query("max by (reason) (mm_paused)", "{{reason}}")], "none", alarm=1),
                    Panel(
                        "Since it quoted last",
                        [Query("time() - max by (market) (mm_last_quoted_timestamp_seconds)", "{{market}}")],
                        "s",
                        alarm=120,
                    ),
                ],
            ),
        ],
    ),
    "shard": (
        "Exchange: shard",
        [Variable("shard", "engine_leader")],
        [
            Row(
                "Now",
                [
                    Panel(
                        "Epoch",
                        [Query(f"max by (shard) (engine_epoch{{{SHARD}}})", "{{shard}}")],
                        "none",
                        "stat",
                        4,
                    ),
                    Panel(
                        "Leaders",
                        [Query(f"sum by (shard) (engine_leader{{{SHARD}}})", "{{shard}}")],
                        "none",
                        "stat",
                        4,
                        1,
                        below=True,
                    ),
                    Panel(
                        "Standbys",
                        [Query(f"max by (shard) (engine_standbys{{{SHARD}}})", "{{shard}}")],
                        "none",
                        "stat",
                        4,
                        1,
                        below=True,
                    ),
                    Panel(
                        "Money adds up",
                        [Query(f"min by (shard) (engine_money_conserved{{{SHARD}}})", "{{shard}}")],
                        "bool_yes_no",
                        "stat",
                        4,
                        1,
                        below=True,
                    ),
                    Panel(
                        "Halted",
                        [Query(f"max by (shard) (gateway_shard_halted{{{SHARD}}})", "{{shard}}")],
                        "bool_yes_no",
                        "stat",
                        4,
                        1,
                    ),
                    Panel(
                        "Dead letters",
                        [Query(f"max by (shard) (engine_dead_letters{{{SHARD}}})", "{{shard}}")],
                        "none",
                        "stat",
                        4,
                        1,
                    ),
                ],
            ),
            Row(
                "Work",
                [
                    Panel("Commands and messages", [rate("engine_commands_total", "shard", SHARD)], "ops"),
                    Panel("Orders accepted", [rate("engine_orders_accepted_total", "shard", SHARD)], "ops"),
                    Panel("Trades", [rate("engine_trades_total", "market", SHARD)], "ops"),
                    Panel("Commands in a batch", quantiles("engine_batch_commands", "shard", SHARD)),
                    Panel("Entries in a batch", quantiles("engine_batch_entries", "shard", SHARD)),
                    Panel("Commands of a gateway's tick", quantiles("gateway_batch_commands")),
                ],
            ),
            Row(
                "Time",
                [
                    Panel(
                        f"A batch's {title}",
                        quantiles("engine_stage_seconds", "shard", f'{SHARD}, stage="{stage}"'),
                        "s",
                        width=6,
                    )
                    for stage, title in (
                        ("wait", "wait in the input"),
                        ("apply", "application"),
                        ("commit", "commit"),
                        ("deliver", "delivery"),
                    )
                ],
            ),
            Row(
                "Book",
                [
                    Panel(
                        "Resting orders",
                        [Query(f"max by (market) (engine_resting_orders{{{SHARD}}})", "{{market}}")],
                        width=12,
                    ),
                    Panel(
                        "Money that should not be there",
                        [
                            Query(
                                f"max by (shard, asset) (engine_money_difference{{{SHARD}}}) != 0",
                                "{{shard}} {{asset}}",
                            )
                        ],
                        width=12,
                        alarm=1,
                    ),
                ],
            ),
            Row(
                "Failover and snapshots",
                [
                    Panel("Leads", [Query(f"engine_leader{{{SHARD}}}", "{{shard}} {{instance}}")], "none"),
                    Panel(
                        "Takeovers",
                        [Query(f"engine_takeovers_total{{{SHARD}}}", "{{shard}} {{instance}}")],
                        "none",
                    ),
                    Panel(
                        "A standby's lag",
                        [Query(f"engine_standby_lag_seconds{{{SHARD}}}", "{{shard}} {{instance}}")],
                        "s",
                        alarm=5,
                    ),
                    Panel(
                        "Log that a start would apply",
                        [Query(f"min by (shard) (engine_snapshot_behind_seconds{{{SHARD}}})", "{{shard}}")],
                        "s",
                        alarm=600,
                    ),
                    Panel(
                        "Age of the newest snapshot",
                        [
                            Query(
                                f"time() - max by (shard) (engine_snapshot_timestamp_seconds{{{SHARD}}})",
                                "{{shard}}",
                            )
                        ],
                        "s",
                    ),
                    Panel(
                        "Size of a snapshot",
                        [Query(f"max by (shard) (engine_snapshot_bytes{{{SHARD}}})", "{{shard}}")],
                        "bytes",
                    ),
                    Panel(
                        "Time to write one",
                        [Query(f"engine_snapshot_duration_seconds{{{SHARD}}}", "{{shard}} {{instance}}")],
                        "s",
                    ),
                    Panel(
                        "Time to fork",
                        [Query(f"engine_snapshot_fork_seconds{{{SHARD}}}", "{{shard}} {{instance}}")],
                        "s",
                    ),
                    Panel(
                        "Snapshots that failed",
                        [rate("engine_snapshot_failures_total", "shard", SHARD)],
                        "ops",
                    ),
                ],
            ),
            Row(
                "Its readers",
                [
                    Panel(
                        "The feeds' lag",
                        [Query(f"max by (shard) (feeds_lag_seconds{{{SHARD}}})", "{{shard}}")],
                        "s",
                        alarm=5,
                    ),
                    Panel(
                        "The ingest's lag",
                        [Query(f"max by (shard) (persist_ingest_lag_seconds{{{SHARD}}})", "{{shard}}")],
                        "s",
                        alarm=30,
                    ),
                    Panel(
                        "The archive's lag",
                        [Query(f"max by (shard) (persist_archive_lag_seconds{{{SHARD}}})", "{{shard}}")],
                        "s",
                        alarm=60,
                    ),
                ],
            ),
        ],
    ),
    "edge": (
        "Exchange: market data and streams",
        [],
        [
            Row(
                "Streams",
                [
                    Panel("Connections", [Query("ws_edge_connections", "{{instance}}")], stacked=True),
                    Panel("Subscriptions", [Query("ws_edge_subscriptions", "{{instance}}")], stacked=True),
                    Panel("Different streams", [Query("ws_edge_streams", "{{instance}}")]),
                    Panel(
                        "Messages for subscribers",
                        [rate("ws_edge_messages_total", "instance")],
                        "ops",
                        stacked=True,
                    ),
                    Panel("Updates", [rate("ws_edge_updates_total", "instance")], "ops"),
                    Panel(
                        "Messages for one client alone",
                        [rate("ws_edge_own_messages_total", "instance")],
                        "ops",
                    ),
                ],
            ),
            Row(
                "The door",
                [
                    Panel(
                        "Refused at the door, or sent away",
                        [rate("ws_edge_refusals_total", "reason")],
                        "ops",
                        width=12,
                        stacked=True,
                    ),
                    Panel(
                        "Connections, of those possible",
                        [Query("ws_edge_connections / ws_edge_connections_max", "{{instance}}")],
                        "percentunit",
                        width=12,
                        alarm=0.8,
                    ),
                ],
            ),
            Row(
                "Slow clients",
                [
                    Panel(
                        "Messages conflated",
                        [rate("ws_edge_messages_conflated_total", "instance")],
                        "ops",
                        width=12,
                    ),
                    Panel(
                        "Connections closed for slowness",
                        [rate("ws_edge_slow_clients_closed_total", "instance")],
                        "ops",
                        width=12,
                    ),
                ],
            ),
            Row(
                "Feeds",
                [
                    Panel("Events applied", [rate("feeds_events_applied_total", "shard")], "ops"),
                    Panel("Messages published", [rate("feeds_messages_published_total", "shard")], "ops"),
                    Panel("Events together", quantiles("feeds_batch_events", "shard")),
                    Panel("A batch", quantiles("feeds_step_seconds", "shard"), "s"),
                    Panel(
                        "From an order's arrival until it is published",
                        quantiles("feeds_delay_seconds", "shard"),
                        "s",
                    ),
                    Panel("Lag", [Query("max by (shard) (feeds_lag_seconds)", "{{shard}}")], "s", alarm=5),
                    Panel("Entries not understood", [rate("feeds_dead_entries_total", "shard")], "ops"),
                ],
            ),
        ],
    ),
    "persistence": (
        "Exchange: persistence",
        [],
        [
            Row(
                "Ingest",
                [
                    Panel(
                        "Lag",
                        [Query("max by (shard) (persist_ingest_lag_seconds)", "{{shard}}")],
                        "s",
                        alarm=30,
                    ),
                    Panel(
                        "From an order's arrival until it is stored",
                        quantiles("persist_delay_seconds", "shard"),
                        "s",
                    ),
                    Panel(
                        "Stands still",
                        [Query("max by (shard) (persist_stopped)", "{{shard}}")],
                        "none",
                        alarm=1,
                    ),
                    Panel("Events stored", [rate("persist_events_stored_total", "shard")], "ops"),
                    Panel("Batches", [rate("persist_batches_stored_total", "shard")], "ops"),
                    Panel("Events in a batch", quantiles("persist_batch_events", "shard")),
                    Panel("A batch", quantiles("persist_batch_seconds", "shard"), "s"),
                    Panel("The database's commit", quantiles("persist_commit_seconds", "shard"), "s"),
                    Panel("Entries put aside", [rate("persist_dead_entries_total", "shard")], "ops"),
                ],
            ),
            Row(
                "Jobs",
                [
                    Panel("Nudges", [rate("persist_nudges_total", "shard")], "ops"),
                    Panel(
                        "Jobs by outcome",
                        [
                            Query(
                                f"sum by (actor, outcome) (rate(persist_jobs_total[{_RATE}]))",
                                "{{actor}} {{outcome}}",
                            )
                        ],
                        "ops",
                    ),
                    Panel("Attempts to send a mail", [rate("persist_mails_total", "outcome")], "ops"),
                    Panel("Jobs done once more", [rate("persist_job_retries_total", "actor")], "ops"),
                    Panel("A job", quantiles("persist_job_seconds", "actor"), "s"),
                    Panel(
                        "Nudges that wait or are worked on", [Query("persist_queue_nudges", "{{instance}}")]
                    ),
                    Panel(
                        "Kept for copies of the database's log",
                        [Query("persist_log_behind_bytes", "{{instance}}")],
                        "bytes",
                    ),
                    Panel(
                        "Not reached: the database",
                        [Query("1 - exchange_database_reachable", "{{process}}")],
                        "none",
                        alarm=1,
                    ),
                ],
            ),
            Row(
                "Archive",
                [
                    Panel(
                        "Lag",
                        [Query("max by (shard) (persist_archive_lag_seconds)", "{{shard}}")],
                        "s",
                        alarm=60,
                    ),
                    Panel("Entries archived", [rate("persist_entries_archived_total", "shard")], "ops"),
                    Panel("Bytes archived", [rate("persist_bytes_archived_total", "shard")], "Bps"),
                ],
            ),
        ],
    ),
}
"""Name of the file -> title, variables, rows."""


def dashboard(name: str) -> Json:
    """Return one of them in Grafana's form."""
    title, variables, rows = DASHBOARDS[name]
    return {
        "uid": f"exchange-{name}",
        "title": title,
        "tags": ["exchange"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "utc",
        "graphTooltip": 1,
        "links": [{"title": "Exchange", "type": "dashboards", "tags": ["exchange"], "asDropdown": False}],
        "templating": {"list": [_datasource(), *map(_variable, variables)]},
        "panels": list(_placed(rows)),
    }


def rule_of_operator(alerts: str) -> str:
    """Return the Prometheus operator's resource with the groups of a plain rule file."""
    groups = alerts[alerts.index("groups:") :]
    indented = "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))
    return (
        "# Made of alerts.yaml by `python deploy/monitoring/grafana.py`.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: exchange\nspec:\n"
        + indented
    )


def made() -> dict[Path, str]:
    """Return everything that is made here: path -> text."""
    texts = {
        FOLDER / "dashboards" / f"{name}.json": json.dumps(dashboard(name), indent=1, ensure_ascii=False)
        + "\n"
        for name in DASHBOARDS
    }
    alerts = (FOLDER / "alerts.yaml").read_text("utf-8")
    return texts | {FOLDER / "prometheus-rule.yaml": rule_of_operator(alerts)}


def _datasource() -> Json:
    return {
        "name": "datasource",
        "type": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
    }


def _variable(variable: Variable) -> Json:
    return {
        "name": variable.label,
        "type": "query",
        "label": variable.label.capitalize(),
        "datasource": _DATASOURCE,
        "query": {"query": f"label_values({variable.metric}, {variable.label})", "refId": variable.label},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "sort": 3,
    }


def _placed(rows: Sequence[Row]) -> Iterator[Json]:
    number, top = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
            "panels": [],
        }
        top += 1
        left, height = 0, 0
        for panel in row.panels:
            number += 1
            if left + panel.width > _COLUMNS:
                left, top, height = 0, top + height, 0
            own_height = 4 if panel.kind == "stat" else 8
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": own_height})
            left, height = left + panel.width, max(height, own_height)
        top += height


def _panel(panel: Panel, number: int, place: Json) -> Json:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _DATASOURCE,
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
        }
        for index, query in enumerate(panel.queries)
    ]
    defaults: Json = {"unit": panel.unit, "min": 0} if panel.unit != "short" else {"unit": "short"}
    good, bad = "green", "red"
    steps: list[Json] = [{"color": bad if panel.below else good, "value": None}]
    if panel.alarm is not None:
        steps.append({"color": good if panel.below else bad, "value": panel.alarm})
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.kind == "stat":
        options: Json = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "value" if panel.alarm is None else "background",
        }
    else:
        style = "dashed" if panel.alarm is not None else "off"
        defaults["custom"] = {
            "fillOpacity": 15 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": style},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text, "utf-8")
