from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from cli.commands.restore import restore
from cli.local import embedded
from cli.local.state_file import write_state
from runtime.settings import PREFIX, Settings


def test_a_running_exchange_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its servers are found on the data folder like those that were left behind."""
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path))
    (tmp_path / "logs").mkdir()
    write_state(Settings(data_dir=tmp_path), [])
    looked: list[Settings] = []

    def leftover_servers(settings: Settings) -> Iterator[psutil.Process]:
        looked.append(settings)
        return iter(())

    monkeypatch.setattr(embedded, "leftover_servers", leftover_servers)
    result = CliRunner().invoke(restore, [])
    assert result.exit_code == 1
    assert "The exchange is running" in result.output
    assert not looked
