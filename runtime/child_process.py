"""Commands of the processes that a process starts by itself, from the code that is on the disk by then."""

import sys


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter, and looks for modules where this process
    does.

    A process that was told not to import from the folder in which it happens to be (`-P`) tells its children
    so.
    """
    return [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", module, *arguments]
