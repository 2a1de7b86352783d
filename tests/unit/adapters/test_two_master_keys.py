"""While one master key takes the place of another, both open, and the one of now seals."""

import base64
from pathlib import Path

import pytest

from adapters.secret_box import SecretBox, further_key, secret_box
from runtime.settings import Settings

OLD, NEW = b"o" * 32, b"n" * 32


def test_both_keys_open_and_the_first_seals() -> None:
    both = SecretBox(NEW, OLD)
    assert both.open(SecretBox(OLD).seal(b"secret", "x"), "x") == b"secret"
    sealed = both.seal(b"secret", "x")
    assert SecretBox(NEW).open(sealed, "x") == b"secret"
    with pytest.raises(ValueError, match="another master key"):
        SecretBox(OLD).open(sealed, "x")


def test_what_is_sealed_for_something_else_stays_closed_to_both() -> None:
    for key in (OLD, NEW):
        with pytest.raises(ValueError, match="for something else"):
            SecretBox(NEW, OLD).open(SecretBox(key).seal(b"secret", "x"), "y")


def test_the_further_key_is_the_settings_or_the_data_folders(tmp_path: Path) -> None:
    old = base64.urlsafe_b64encode(OLD).decode()
    assert further_key(Settings(data_dir=tmp_path)) is None
    assert further_key(Settings(data_dir=tmp_path, master_key_previous=old)) == OLD
    (tmp_path / "master.previous.key").write_text(old, "ascii")
    assert further_key(Settings(data_dir=tmp_path)) == OLD
    # A key that comes from elsewhere has nothing to do with this folder.
    assert further_key(Settings(data_dir=tmp_path, master_key=old)) is None
    assert secret_box(Settings(data_dir=tmp_path)).open(SecretBox(OLD).seal(b"secret", "x"), "x") == b"secret"
