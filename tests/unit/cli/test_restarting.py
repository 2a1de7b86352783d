"""What `exchange restart` refuses before anything was restarted."""

import os
from pathlib import Path

import pytest

from cli.local.state_file import ProcessState, ProcessStatus, write_state
from cli.restarting import RestartError, restart
from runtime.settings import Settings


def started(settings: Settings, *names: str) -> None:
    write_state(settings, [ProcessState(name, os.getpid(), 0.0, ProcessStatus.RUNNING) for name in names])


def test_a_release_that_needs_another_server_is_not_restarted_under_an_earlier_one(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    started(settings, "redis", "postgres", "gateway")
    with pytest.raises(RestartError, match=r"starts no redis-cache.*`exchange down`, `exchange up`"):
        next(restart(settings, ["gateway"], lambda _: None))


@pytest.mark.parametrize(
    "settings", [{"cache_enabled": False}, {"redis_url": "redis://r"}, {"cache_url": "redis://c"}]
)
def test_where_that_server_is_not_one_of_ours_it_need_not_run(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    own = Settings(data_dir=tmp_path, **settings)  # type: ignore[arg-type]
    started(own, "redis", "postgres", "gateway")
    with pytest.raises(RestartError, match="There is no process 'nobody'"):
        next(restart(own, ["nobody"], lambda _: None))
