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


_AT_EVERY_STEP = """
import os, select, signal, sys, threading
from types import FrameType
from runtime import lifecycle

{plant}

def wait_with_a_signal(step: int) -> None:
    flag, seen = lifecycle.stop_flag(), 0

    def trace(frame, event, _argument):
        nonlocal seen
        frame.f_trace_opcodes = True
        seen += event == "opcode"
        if event == "opcode" and seen == step:
            signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    flag.wait(0.02)
    sys.settrace(None)
    if seen < step:
        os._exit({no_such_step})
    os._exit(0 if flag.wait(10) else 1)

for step in range(1, 10_000):
    child = os.fork()
    if not child:
        wait_with_a_signal(step)
    ended = select.poll()
    ended.register(os.pidfd_open(child), select.POLLIN)
    if not ended.poll({patience_ms}):
        os.kill(child, signal.SIGKILL)
        sys.exit(f"waits for ever: step {{step}}")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == {no_such_step}:
        sys.exit(0 if step > 20 else "it was not traced")
    assert code == 0, code
"""


def _signal_at_every_step(plant: str, patience_ms: int) -> str:
    """Wait for a flag as often as that has steps, with a signal at each of them in turn.

    Return what went wrong.
    """
    program = _AT_EVERY_STEP.format(plant=plant, patience_ms=patience_ms, no_such_step=17)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120).stderr


def test_a_signal_at_any_step_of_a_wait_ends_it() -> None:
    assert not _signal_at_every_step("", 60_000)


def test_the_librarys_event_waits_for_ever() -> None:
    assert "waits for ever" in _signal_at_every_step("lifecycle.SignalFlag = threading.Event", 1_000)


def _started(program: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
