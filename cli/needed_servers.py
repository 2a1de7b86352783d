"""Redis and PostgreSQL for a command that needs them, whether the exchange runs or not."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from cli.console import CommandError
from cli.local import embedded, embedded_redis
from cli.local.free_ports import PortError, check_ports
from cli.local.processes import ProcessSpec
from cli.local.state_file import log_file, read_state, state_file
from cli.local.supervisor import Supervisor
from cli.running import LOOK_EVERY_S, READY_TIMEOUT_S, stop_leftovers
from runtime.settings import Settings


@contextmanager
def servers_of_stopped(settings: Settings, say: Callable[[str], None]) -> Iterator[None]:
    """Run the embedded servers while the context lasts; none of the exchange's processes may run.

    Raises:
        CommandError: the exchange runs, or a server does not start.
    """
    if (state := read_state(settings)) is not None:
        raise CommandError(
            f"The exchange is running (process {state.pid}); stop it first with `exchange down`."
        )
    try:
        embedded.make_data_dir(settings)
        # Only now: it would end the servers of a running exchange, too.
        stop_leftovers(settings)
        check_ports(settings)
        supervisor = Supervisor(settings)
        try:
            for name, url, commands, ready in (
                ("redis", settings.redis_url, embedded_redis.redis_commands, embedded_redis.redis_ready),
                ("postgres", settings.database_url, _postgres_commands, embedded.postgres_ready),
            ):
                started = {} if url else commands(settings)
                for server, command in started.items():
                    say(f"starting {server}")
                    supervisor.start(ProcessSpec(server, command))
                deadline = time.monotonic() + READY_TIMEOUT_S
                while not ready(settings):
                    if time.monotonic() > deadline:
                        logs = ", ".join(str(log_file(settings, server)) for server in started or (name,))
                        raise CommandError(f"{name} does not answer; see {logs}.")
                    time.sleep(LOOK_EVERY_S)
            yield
        finally:
            supervisor.stop_all(say)
            state_file(settings).unlink(missing_ok=True)
    except (embedded.ServerError, PortError, OSError) as error:
        raise CommandError(str(error)) from error


def _postgres_commands(settings: Settings) -> Mapping[str, embedded.ServerCommand]:
    return {"postgres": embedded.postgres_command(settings)}
