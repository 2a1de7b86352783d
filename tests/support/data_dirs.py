"""Data folders and ports of exchanges that tests start."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

METRICS_PORTS = 20
"""As many as its processes take, and some to spare."""


@contextmanager
def data_dir_of_its_own() -> Iterator[Path]:
    """Yield a folder that the servers' users may enter."""
    with tempfile.TemporaryDirectory(prefix="exchange-e2e-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
