"""The `exchange` command. A command's module is imported when it is needed: `up` has no time for what `bench` imports."""

import importlib
import sys

import rich_click as click
import structlog

_MODULES = {
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
    "simulate": "cli.commands.simulate",
    "bench": "benchmarks.main",
    "chaos": "cli.commands.chaos",
    "load": "cli.commands.load",
}
"""Where each command is; there it has its own name, with underscores."""


class _Commands(click.RichGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        command = getattr(importlib.import_module(_MODULES[cmd_name]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands)
@click.version_option(package_name="exchange", prog_name="exchange")
def main() -> None:
    """Run and watch a spot exchange.

    Settings are environment variables that begin with EXCHANGE_, such as EXCHANGE_REST_PORT or EXCHANGE_DATA_DIR;
    runtime/settings.py has them all. Other commands use those that `exchange up` was started with, unless they are set anew.
    """
    # What a command answers, JSON perhaps, is all that is on its standard output.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


if __name__ == "__main__":
    main()
