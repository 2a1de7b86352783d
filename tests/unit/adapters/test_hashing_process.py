"""The process that hashes what nobody waits for urgently."""

import os
import signal
import subprocess
import sys
import threading
import time
from struct import Struct
from types import SimpleNamespace

import argon2
import psutil
import pytest

from adapters.hashing_process import HashingProcess, password_hasher
from functions.api.errors import ApiError

PASSWORD = "an entirely different staple £€"


def test_the_hash_is_one_that_sign_ins_verify() -> None:
    hashing = HashingProcess()
    for password in (PASSWORD, "", "two\nlines", "x" * 4_000):
        password_hasher().verify(hashing.hash(password), password)
        with pytest.raises(argon2.exceptions.VerifyMismatchError):
            password_hasher().verify(hashing.hash(password), password + "x")
    assert hashing.hash(PASSWORD) != hashing.hash(PASSWORD)


def test_the_rules_are_its_too() -> None:
    hashing = HashingProcess()
    password_hasher().verify(hashing.hash(PASSWORD, "ada@example.com"), PASSWORD)
    for password, words in (
        ("12345678", "known to attackers"),
        ("ada@example.com", "known to attackers"),
        ("short", "8 to 1024"),
    ):
        with pytest.raises(ApiError, match=words) as refusal:
            hashing.hash(password, "ada@example.com")
        assert (refusal.value.code, refusal.value.status) == (-1130, 400)
    password_hasher().verify(hashing.hash(PASSWORD, "ada@example.com"), PASSWORD)


def test_it_gives_way_to_every_other_process_and_shows_no_password() -> None:
    hashing = HashingProcess()
    assert hashing.pid is None
    hashing.hash(PASSWORD)
    assert hashing.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, hashing.pid) == 19
    assert os.getsid(hashing.pid) != os.getsid(0)
    if hasattr(os, "SCHED_IDLE"):
        assert os.sched_getscheduler(hashing.pid) == os.SCHED_IDLE
    process = psutil.Process(hashing.pid)
    assert PASSWORD not in " ".join([*process.cmdline(), *process.environ().values()])


def test_another_process_does_it_when_one_has_died() -> None:
    hashing = HashingProcess()
    hashing.hash(PASSWORD)
    first = hashing.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    password_hasher().verify(hashing.hash(PASSWORD), PASSWORD)
    assert hashing.pid != first


def test_it_is_an_error_when_they_die_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.hashing_process.sys.executable", "/bin/true")
    hashing = HashingProcess()
    with pytest.raises(OSError, match=r"(?i)died|broken pipe"):
        hashing.hash(PASSWORD)
    monkeypatch.undo()
    password_hasher().verify(hashing.hash(PASSWORD), PASSWORD)


def test_one_of_another_release_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code on the disk may be another than the parent's: neither waits for bytes that the other never
    sends."""
    for spoken in ("1", "3"):
        monkeypatch.setattr("adapters.hashing_process.SPOKEN", spoken)
        with pytest.raises(OSError, match=r"(?i)died|broken pipe"):
            HashingProcess().hash(PASSWORD)


def test_the_parent_before_there_were_numbers_is_not_kept_waiting() -> None:
    """It sent one length, and no address."""
    before = Struct(">I").pack(len(PASSWORD.encode())) + PASSWORD.encode()
    command = [sys.executable, "-m", "adapters.hashing_process"]
    ended = subprocess.run(command, input=before, capture_output=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert b"restart the gateway" in ended.stderr


def test_it_is_ended_in_the_middle_of_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = SimpleNamespace(pack=lambda length, email: Struct(">II").pack(length + 1, email))
    monkeypatch.setattr("adapters.hashing_process._LENGTHS", longer)  # it waits for the end of the password
    hashing, errors = HashingProcess(), list[OSError]()

    def ask() -> None:
        try:
            hashing.hash(PASSWORD)
        except OSError as error:
            errors.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    deadline = time.monotonic() + 10
    while hashing.pid is None and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = hashing.pid
    assert pid is not None
    hashing.close()
    assert not psutil.pid_exists(pid)
    caller.join(timeout=10)
    assert not caller.is_alive()
    assert len(errors) == 1
    with pytest.raises(OSError, match="any more"):
        hashing.hash(PASSWORD)


def test_callers_in_several_threads_get_each_their_own() -> None:
    hashing = HashingProcess()
    hashes: dict[int, str] = {}
    threads = [
        threading.Thread(
            target=lambda number=number: hashes.update({number: hashing.hash(f"{PASSWORD} {number}")})
        )
        for number in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for number, hashed in hashes.items():
        password_hasher().verify(hashed, f"{PASSWORD} {number}")
    assert len(hashes) == 8


def test_it_ends_with_its_parent() -> None:
    """Also with one that is killed: its input ends."""
    program = (
        "import time; from adapters.hashing_process import HashingProcess as H; "
        "h = H(); h.hash('x'); print(h.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
