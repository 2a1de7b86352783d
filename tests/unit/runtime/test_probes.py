"""What a process says when it is asked whether it lives and is ready."""

import asyncio
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from importlib import metadata
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.local.free_ports import free_port
from runtime.metrics import metrics_application, reach_redis, serve_metrics
from runtime.probes import START_S_MAX, TURN_S_MAX, Probes
from runtime.settings import Settings, SettingsError
from tests.support.probe_questions import ask


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_loop_that_hangs_is_not_alive_although_the_server_answers() -> None:
    clock, port = Clock(), free_port()
    probes = Probes(clock)
    serve_metrics(Settings(metrics_port=port), "test", probes)
    url = f"http://127.0.0.1:{port}"
    assert ask(f"{url}/livez") == (200, {})
    probes.turned()
    clock.now_s += TURN_S_MAX
    assert ask(f"{url}/livez") == (200, {})
    clock.now_s += 1
    reasons = {"process": f"the main loop has not turned for {TURN_S_MAX + 1:.0f} s"}
    assert ask(f"{url}/livez") == (503, reasons)
    assert ask(f"{url}/readyz") == (503, reasons)
    probes.turned()
    assert ask(f"{url}/livez") == (200, {})


def test_a_process_that_starts_lives_and_is_not_ready() -> None:
    clock = Clock()
    probes = Probes(clock)
    clock.now_s += START_S_MAX
    assert probes.why_not_alive() is None
    assert probes.why_not_ready() == {"process": "starting"}
    probes.turned()
    assert probes.why_not_ready() == {}
    probes.starting("restoring")
    assert probes.why_not_ready() == {"process": "restoring"}
    clock.now_s += START_S_MAX + 1
    assert probes.why_not_alive() == "the main loop has not turned for 901 s: restoring"


def test_every_reason_is_named() -> None:
    probes = Probes()
    reach = reach_redis(probes, "test")
    probes.turned()
    probes.ready_when("lag", lambda: "far behind")
    assert probes.why_not_ready() == {"redis": "Redis does not answer: not asked yet", "lag": "far behind"}
    reach.failed(ConnectionError("refused"))
    probes.ready_when("lag", lambda: None)
    assert probes.why_not_ready() == {"redis": "Redis does not answer: refused"}
    reach.answered()
    assert probes.why_not_ready() == {}
    probes.leaving()
    assert probes.why_not_ready() == {"process": "it is about to end"}
    assert probes.why_not_alive() is None


async def test_an_event_loop_says_by_itself_that_it_turns() -> None:
    clock = Clock()
    probes = Probes(clock)
    async with probes.turning():
        await asyncio.sleep(0)
        assert probes.why_not_ready() == {}
    clock.now_s += TURN_S_MAX + 1
    assert probes.why_not_alive() is not None


def test_all_metrics_are_served_and_nothing_else() -> None:
    port = free_port()
    serve_metrics(Settings(metrics_port=port), "test", Probes())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        families = {each.name: each for each in text_string_to_metric_families(response.read().decode())}
    assert ("test", metadata.version("exchange")) in {
        (*each.labels.values(),) for each in families["exchange_build_info"].samples
    }
    assert {"process": "test"} in [each.labels for each in families["exchange_ready"].samples]
    assert "process_cpu_seconds" in families
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20)


def test_who_waits_for_the_interpreter_has_it_between_two_metrics() -> None:
    turns = 0
    done = threading.Event()

    def other() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0)

    environ: dict[str, object] = {"PATH_INFO": "/metrics"}
    setup_testing_defaults(environ)
    thread = threading.Thread(target=other)
    thread.start()
    try:
        before = turns
        metrics_application(Probes())(environ, lambda *_: lambda _: None)
        assert turns > before
    finally:
        done.set()
        thread.join()


LEAK = '''
import gc, subprocess, sys
from cli.local.free_ports import free_port
from runtime.metrics import serve_metrics
from runtime.probes import Probes
from runtime.settings import Settings

port = free_port()
serve_metrics(Settings(metrics_port=port), "test", Probes())
client = f"""
import http.client
for path in ("/metrics", "/livez", "/readyz", "/") * 20:
    connection = http.client.HTTPConnection("127.0.0.1", {port})
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()
"""

def ask():
    subprocess.run([sys.executable, "-c", client], check=True)

ask()
gc.collect(), gc.disable(), gc.freeze()
PLANT
ask()
print(gc.collect())
'''


def garbage(plant: str = "") -> int:
    program = LEAK.replace("PLANT", plant)
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)


def test_who_asks_leaves_no_garbage_in_a_process_without_a_collector() -> None:
    assert garbage() == 0
    assert garbage("cycle = []; cycle.append(cycle); del cycle") > 0


def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    port = free_port()
    serve_metrics(Settings(metrics_port=port), "test", Probes())
    with pytest.raises(SettingsError, match=f"EXCHANGE_METRICS_PORT: cannot listen on 127.0.0.1:{port}"):
        serve_metrics(Settings(metrics_port=port), "test", Probes())


def test_a_process_without_a_port_serves_nothing() -> None:
    threads = threading.active_count()
    serve_metrics(Settings(), "test", Probes())
    assert threading.active_count() == threads
