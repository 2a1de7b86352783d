"""The process `wal-receiver`: becomes pg_receivewal, on the folder that `backup.json` names at its start."""

import os
import sys

from cli.local.backups import BackupError, receiver_arguments
from cli.local.embedded import ServerError
from runtime.settings import SettingsError, load_settings


def main() -> None:
    """Run pg_receivewal in the place of this program; end with 1 and a line of why when that cannot be."""
    try:
        arguments = receiver_arguments(load_settings())
        os.execv(arguments[0], arguments)  # noqa: S606 - a shell would get the signals
    except (BackupError, ServerError, SettingsError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
