"""The document about the settings says what the settings are."""

from pathlib import Path

import msgspec

from runtime.settings import Settings
from runtime.settings_description import document, sections

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


def test_the_document_is_what_the_settings_make() -> None:
    assert DOCUMENT.read_text("utf-8") == document(), (
        "python -m runtime.settings_description > docs/reference/settings.md"
    )


def test_every_setting_is_described_once_with_its_default() -> None:
    described = [setting for section in sections() for setting in section.settings]
    assert [setting.name for setting in described] == [
        field.name for field in msgspec.structs.fields(Settings)
    ]
    by_name = {setting.name: setting for setting in described}
    assert by_name["rest_port"][1:4] == ("EXCHANGE_REST_PORT", "1 to 65535", "8000")
    assert by_name["lease_ms"].values == "100 or more"
    assert by_name["redis_mode"].values == "single, sentinel, cluster"
    assert by_name["faucet_enabled"][2:4] == ("true, false", "")
    assert all(setting.text.endswith(".") for setting in described)
