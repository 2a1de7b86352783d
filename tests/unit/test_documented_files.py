"""What the documents tell to back up are files that there are."""

import re
from pathlib import Path

from adapters.secret_box import master_key
from cli.local import embedded
from protocol.configuration import Role
from runtime.operator_keys import private_key
from runtime.settings import Settings

BACKUPS = Path(__file__).parents[2] / "docs" / "how-to" / "back-up-and-restore.md"


def test_the_files_to_back_up_are_those_of_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    embedded.make_data_dir(settings)
    master_key(settings)
    for role in Role:
        private_key(settings, role)
    backups = " ".join(BACKUPS.read_text("utf-8").split()).partition("## Back up")[2].partition(" ## ")[0]
    names = re.search(r"data folder's ((?:`[^`]+`(?:, | and )?)+)", backups)
    assert names is not None
    files = re.findall(r"`([^`]+)`", names[1])
    assert set(files) == {"master.key", "operator.key", "treasury.key", "faucet.key"}
    for file in files:
        assert (settings.data_dir / file).is_file(), file
