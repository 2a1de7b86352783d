"""Signals, sent to real processes."""

import signal
import subprocess
import sys

import pytest

_SYNC = """
from runtime.lifecycle import stop_flag
flag = stop_flag()
print("ready", flush=True)
flag.wait()
print("drained", flush=True)
{then}
"""
_ASYNC = """
import asyncio
from runtime.lifecycle import stop_event
async def run():
    event = stop_event()
    print("ready", flush=True)
    await event.wait()
    print("drained", flush=True)
    {then}
asyncio.run(run())
"""


@pytest.mark.parametrize("program", [_SYNC, _ASYNC], ids=["loop", "event loop"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_a_process_finish(program: str, sent: signal.Signals) -> None:
    with _started(program.format(then="pass")) as process:
        process.send_signal(sent)
        assert process.communicate(timeout=60)[0] == "drained\n"
        assert process.returncode == 0


@pytest.mark.parametrize("program", [_SYNC, _ASYNC], ids=["loop", "event loop"])
def test_the_second_signal_ends_it_at_once(program: str) -> None:
    with _started(program.format(then="__import__('time').sleep(60)")) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "drained\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=50) == -signal.SIGTERM


def _started(program: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
