"""The frontend in a real browser, on whole exchanges; what is looked at stands in frontend/browser/."""

import os
import shutil
import subprocess
import urllib.request
import warnings
from pathlib import Path

import msgspec
import pytest

from cli.local.own_exchange import EXCHANGE
from runtime.settings import Settings
from tests.support.eventually import eventually
from tests.support.running_exchange import RunningExchange, running_exchange

CHECKOUT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 240
LOOK_TIMEOUT_S = 300

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S + LOOK_TIMEOUT_S)


@pytest.fixture(autouse=True)
def _browser() -> None:
    if shutil.which("chromium") or shutil.which("chromium-browser") or "CHROMIUM" in os.environ:
        return
    advice = (
        "there is no Chromium: the frontend is NOT TESTED in a browser (Debian: apt install chromium; or "
        "name it in CHROMIUM)"
    )
    if "CI" in os.environ:
        pytest.fail(advice)
    warnings.warn(advice, stacklevel=1)
    pytest.skip(advice)


# Takes long: an exchange of its own, and everything two people do on the page, typed and clicked.
def test_two_people_trade(data_dir: Path) -> None:
    with running_exchange(data_dir, frontend_enabled="true", mm_enabled="false") as exchange:
        look(exchange, "journey.mjs")


# Takes long: most of its time are waits that the page promises: ten seconds of polling are watched, a
# refusal of eight seconds is heeded, silence is called silence after as long as the page says.
def test_what_the_page_says_when_things_go_wrong(data_dir: Path) -> None:
    with running_exchange(data_dir, frontend_enabled="true", mm_enabled="false") as exchange:
        look(exchange, "honest.mjs")


# Takes long: each page is looked at while quotes move.
def test_the_pages_live(exchange: RunningExchange) -> None:
    look(exchange, "live.mjs")


def test_what_browsers_are_told(exchange: RunningExchange) -> None:
    wait_for_frontend(exchange.settings)
    url = exchange.settings.frontend_url()
    with urllib.request.urlopen(f"{url}/config.json") as response:
        assert msgspec.json.decode(response.read()) == {"wsUrl": exchange.settings.ws_url()}
    with urllib.request.urlopen(f"{url}/trade/ETHUSDT") as response:
        policy = response.headers["Content-Security-Policy"]
    assert f"connect-src 'self' {exchange.settings.ws_url()}" in policy
    assert exchange.command("status")["urls"]["frontend"] == url


def look(exchange: RunningExchange, script: str) -> None:
    """Run one of the browser's scripts."""
    wait_for_frontend(exchange.settings)
    command = [
        str(CHECKOUT / "scripts" / "frontend"),
        "run",
        f"browser/{script}",
        exchange.settings.frontend_url(),
    ]
    # A script reads the mails that people are sent, as they do who run an exchange without a mail server.
    environment = {**exchange.environment, "COMMAND_OF_EXCHANGE": msgspec.json.encode(EXCHANGE).decode()}
    result = subprocess.run(command, capture_output=True, text=True, timeout=LOOK_TIMEOUT_S, env=environment)
    if result.returncode:
        pytest.fail(f"{script}:\n{result.stdout}{result.stderr}")


def wait_for_frontend(settings: Settings) -> None:
    """Wait until it is built; skip loudly where it cannot be."""

    def health() -> dict[str, str] | None:
        try:
            with urllib.request.urlopen(f"{settings.frontend_url()}/health") as response:
                answer = msgspec.json.decode(response.read(), type=dict[str, str])
        except OSError:
            return None
        return answer if answer["state"] != "building" else None

    answer = eventually("the frontend", health, BUILD_TIMEOUT_S)
    if answer["state"] != "ready":
        if "CI" in os.environ:
            pytest.fail(f"there is no frontend: {answer['reason']}")
        warnings.warn(f"the frontend is NOT TESTED in a browser: {answer['reason']}", stacklevel=1)
        pytest.skip(answer["reason"])
