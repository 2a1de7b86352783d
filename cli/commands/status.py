"""`exchange status`."""

import rich_click as click

from cli.console import console, plain_table, print_json, running_settings
from cli.inquiries import TIMEOUT_S, cores, frontend_note, halts, lags_ms, serving, shards_answer
from cli.live_status import watch
from cli.local.processes import metrics_urls, urls
from cli.local.state_file import ProcessState, ProcessStatus, read_state, trading_processes
from runtime.settings import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ready, urls, processes, halted, metrics.")
@click.option(
    "--watch", "is_watching", is_flag=True, help="Watch live until Ctrl-C; with --json one line per second."
)
def status(as_json: bool, is_watching: bool) -> None:
    """Show every process, its state, how far it is behind, and the URLs.

    Ready means: every process runs, every gateway answers a ping, every edge opens a WebSocket, and every
    shard answers.

    --watch shows orders, trades and latencies of the last seconds, every shard, market and process, and the
    streams.
    """
    settings = running_settings()
    if is_watching:
        watch(settings, as_json=as_json)
        return
    state = read_state(settings)
    processes = state.processes if state else []
    needed = trading_processes(processes)
    all_running = bool(needed) and all(process.state is ProcessStatus.RUNNING for process in needed)
    doors = serving(settings) if processes else {}
    ready = all_running and all(doors.values()) and shards_answer(settings, TIMEOUT_S)
    running_cores = cores(settings) if processes else {}
    if as_json:
        _print_json(settings, processes, doors, running_cores, is_ready=ready)
        return
    if state is None:
        console.print("The exchange is not running; `exchange up` starts it.")
        return
    console.print("The exchange is ready.\n" if ready else "The exchange is not ready.\n")
    _show(settings, processes, doors, running_cores)
    if not ready:
        console.print("`exchange logs PROCESS` shows a process's log.", highlight=False)


def _print_json(
    settings: Settings,
    processes: list[ProcessState],
    doors: dict[str, bool],
    running_cores: dict[str, str],
    *,
    is_ready: bool,
) -> None:
    rows = [
        {
            "name": process.name,
            "pid": process.pid or None,
            "state": process.state,
            "restarts": process.restarts,
            "answers": doors.get(process.name),
            "core": running_cores.get(process.name),
        }
        for process in processes
    ]
    halted = {str(shard): halt.reason for shard, halt in halts(settings).items()} if processes else {}
    print_json(
        {
            "ready": is_ready,
            "urls": urls(settings),
            "processes": rows,
            "halted": halted,
            "metrics": metrics_urls(settings),
        }
    )


def _show(
    settings: Settings,
    processes: list[ProcessState],
    doors: dict[str, bool],
    running_cores: dict[str, str],
) -> None:
    lags = lags_ms(settings)
    table = plain_table("process", "state", "pid", "restarts", "behind", "core")
    table.columns[1].justify = table.columns[5].justify = "left"
    for process in processes:
        behind = f"{lags[process.name]} ms" if process.name in lags else ""
        silent = process.state is ProcessStatus.RUNNING and doors.get(process.name) is False
        state_text = f"{process.state}, does not answer" if silent else process.state
        core = running_cores.get(process.name, "")
        table.add_row(process.name, state_text, str(process.pid or ""), str(process.restarts), behind, core)
    console.print(table)
    console.print()
    for name, url in urls(settings).items():
        note = frontend_note(settings) if name == "frontend" else ""
        console.print(f"{name:>8}  {url}{note}", highlight=False, markup=False, soft_wrap=True)
    for shard, halt in halts(settings).items():
        console.print(
            f"\nShard {shard} has halted: {halt.reason}", highlight=False, markup=False, soft_wrap=True
        )
