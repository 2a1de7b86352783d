"""The `exchange` command.

A command's module is imported when it is needed: `up` has no time for what `bench` imports.
"""

import importlib
import importlib.util
import sys
from typing import Final

import rich_click as click
import structlog

_MODULES: Final = {
    "up": "cli.commands.up",
    "down": "cli.commands.down",
    "restart": "cli.commands.restart",
    "status": "cli.commands.status",
    "logs": "cli.commands.logs",
    "mails": "cli.commands.mails",
    "demo-account": "cli.commands.demo_account",
    "shards": "cli.commands.shards",
    "replay": "cli.commands.replay",
    "audit": "cli.commands.audit",
    "dead": "cli.commands.dead",
    "skip": "cli.commands.skip",
    "markets": "cli.commands.markets",
    "accounts": "cli.commands.accounts",
    "treasury": "cli.commands.treasury",
    "maintenance": "cli.commands.maintenance",
    "keys": "cli.commands.keys",
    "formats": "cli.commands.formats",
    "convert": "cli.commands.convert",
    "migrate": "cli.commands.migrate",
    "secrets": "cli.commands.secrets",
    "rotate-password": "cli.commands.rotate_password",
    "backup": "cli.commands.backup",
    "recover": "cli.commands.recover",
    "restore": "cli.commands.restore",
    "book": "cli.commands.book",
    "account": "cli.commands.account",
    "why": "cli.commands.why",
    "simulate": "lab.commands.simulate",
    "bench": "lab.commands.bench",
    "chaos": "lab.commands.chaos",
    "load": "lab.commands.load",
}
"""Where each command is; there it has its own name, with underscores."""
_LAB: Final = "lab."
"""The production image is without what developers try the exchange with."""


def _modules() -> dict[str, str]:
    has_lab = importlib.util.find_spec("lab") is not None
    return {command: module for command, module in _MODULES.items() if has_lab or not module.startswith(_LAB)}


class _Commands(click.RichGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_modules())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _modules().get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(module), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands)
@click.version_option(package_name="exchange", prog_name="exchange")
def main() -> None:
    """Run and watch a spot exchange.

    Settings are environment variables that begin with EXCHANGE_, such as EXCHANGE_REST_PORT or
    EXCHANGE_DATA_DIR; docs/reference/settings.md lists them. Other commands use the settings with which
    `exchange up` was started, unless the environment overrides them.
    """
    # What a command answers, JSON perhaps, is all that is on its standard output.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


if __name__ == "__main__":
    main()
