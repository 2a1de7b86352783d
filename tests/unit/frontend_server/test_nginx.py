"""nginx, in the image, is told the same as what `make up` serves the pages with."""

import re
from pathlib import Path

from frontend_server.pages import security_headers

CONFIGURATION = Path(__file__).resolve().parents[3] / "frontend" / "container" / "nginx.conf"


def test_it_sends_the_same_security_headers() -> None:
    found = dict(
        re.findall(r'^\s*add_header (\S+) "([^"]*)" always;$', CONFIGURATION.read_text("utf-8"), re.MULTILINE)
    )
    assert found == security_headers("@WS_URL@")


def test_no_location_has_headers_of_its_own() -> None:
    text = CONFIGURATION.read_text("utf-8")
    assert text.rindex("add_header") < text.index(" location ")
