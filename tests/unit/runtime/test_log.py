"""What a process writes, seen from outside."""

import json
import subprocess
import sys

_PROGRAM = """
import logging
import structlog
from runtime.log import configure_logs
from runtime.settings import Settings
configure_logs(Settings(log_format={form!r}, log_level="info"), "engine-0")
structlog.get_logger().debug("not shown")
structlog.get_logger().info("batch committed", commands=3)
logging.getLogger("library").warning("odd: %s", "thing")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("failed")
"""


def test_json_is_one_object_per_line_also_for_libraries_and_errors() -> None:
    batch, library, failure = map(json.loads, _output("auto").splitlines())
    assert (batch["event"], batch["commands"], batch["level"], batch["process"]) == (
        "batch committed",
        3,
        "info",
        "engine-0",
    )
    assert (library["event"], library["level"], library["process"]) == ("odd: thing", "warning", "engine-0")
    assert "ZeroDivisionError" in failure["exception"]


def test_human_lines_name_the_event_and_its_values() -> None:
    first = _output("human").splitlines()[0]
    assert "batch committed" in first
    assert "commands=3" in first


def _output(form: str) -> str:
    program = _PROGRAM.format(form=form)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
