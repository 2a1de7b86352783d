"""The start of a process: read and check the settings, start logs, metrics and probes, then its work."""

import sys
from collections.abc import Callable
from typing import NamedTuple

from runtime.agreement import agree
from runtime.log import configure_logs
from runtime.metrics import serve_metrics
from runtime.probes import Probes
from runtime.settings import Settings, SettingsError, load_settings
from runtime.tracing import Tracer, tracer_of
from runtime.unsafe_settings import refuse_unsafe


class Process(NamedTuple):
    """A started process."""

    name: str
    settings: Settings
    probes: Probes

    def tracer(self) -> Tracer | None:
        """Return a tracer of orders; None: traces are off."""
        return tracer_of(self.settings, self.name)


def run(
    main: Callable[[Process], None],
    name: str | Callable[[Settings], str],
    *,
    log_name: Callable[[Settings], str] | None = None,
    allows_unsafe: bool = False,
    agrees: bool = True,
    has_metrics: bool = True,
    is_metrics_port_shared: bool = False,
) -> None:
    """Start a process and call `main`, which returns when the process was asked to stop.

    A mistake in the settings, found here or by `main` (`SettingsError`), ends the process with status 1 and a
    message on standard error that names every wrong setting.

    Args:
        main: The work of the process.
        name: The process in metrics, traces and, without `log_name`, in logs.
        log_name: The name in logs where several processes share `name`.
        allows_unsafe: Whether to accept settings that are for development installations only: for a process
            that neither serves nor writes.
        agrees: Whether the process must agree on the shared settings (runtime/agreement.py).
        has_metrics: Whether the process serves metrics and probes.
        is_metrics_port_shared: Whether a process that replaces this one may use the same port for a moment.
    """
    probes = Probes()
    try:
        settings = load_settings()
        if not allows_unsafe:
            refuse_unsafe(settings)
        text = name if isinstance(name, str) else name(settings)
        configure_logs(settings, log_name(settings) if log_name else text)
        if has_metrics:
            serve_metrics(settings, text, probes, is_port_shared=is_metrics_port_shared)
        if agrees:
            agree(settings, text, settings.shard)
        main(Process(text, settings, probes))
    except SettingsError as error:
        sys.exit(f"Settings:\n{error}")
