"""Commands of child processes, which run the code that is on disk when they start."""

import sys


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter and this process's module search path.

    A process that does not import from its working directory (`-P`) passes this on to its children.
    """
    return [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", module, *arguments]
