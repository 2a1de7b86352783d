"""A separate low-priority process that checks and hashes the passwords of sign-ups.

A low-priority thread would not do: while it holds the interpreter's lock and waits for a processor, the event
loop waits, too. The process starts with the first password, and ends with its parent, when its input ends.

    parent -> process: 4 bytes each, the lengths, then the password and its address in UTF-8;
    no address: no rules
    process -> parent: "+" and the hash, or "-", the code of the refusal, a space and its message;
    and a newline

It runs the code that is on disk when it starts, which may be of another release than its parent's. Its
argument therefore names the version of this protocol, and a process with another version ends at once:
sign-ups are refused until the parent is restarted.
"""

import contextlib
import struct
import subprocess
import sys
import threading
from typing import BinaryIO, Final

import argon2

from functions.api.errors import ApiError
from functions.users.password_rules import check_password
from runtime import child_process
from runtime.priority import give_way

SPOKEN: Final = "2"
"""The version of the protocol above, which grows with every change. The first version had no number."""
_LENGTHS: Final = struct.Struct(">II")


def password_hasher() -> argon2.PasswordHasher:
    """Return the hasher of all passwords; a hash takes about 20 ms of processor time."""
    return argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class HashingProcess:
    """Hashes one password at a time; callers wait in their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The process id; None before the first password."""
        return self._child.pid if self._child is not None else None

    def hash(self, password: str, email: str = "") -> str:
        """Return the password's hash. If the process has died, it is restarted.

        Raises:
            ApiError: -1130, the rules refuse the password for this address.
            OSError: no process can be started, two in a row have died, or this is closed.
        """
        secret, address = password.encode(), email.encode()
        with self._lock:
            for is_last in (False, True):
                try:
                    return _hash_in(
                        self._request(_LENGTHS.pack(len(secret), len(address)) + secret + address)
                    )
                except OSError:
                    self._end()
                    if is_last:
                        raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the process in any state.

        Because of its low priority it may be slow to notice the end of its input.
        """
        self._is_closed = True
        if (child := self._child) is not None:
            child.kill()
            child.wait()

    def _request(self, request: bytes) -> str:
        if self._is_closed:
            raise BrokenPipeError("passwords are not hashed any more")
        if self._child is None:
            self._child = subprocess.Popen(  # noqa: S603
                child_process.command("adapters.hashing_process", SPOKEN),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A session of its own, because of autogroups: see `give_way`.
                start_new_session=True,
            )
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(request)
        child.stdin.flush()
        answer = child.stdout.readline()
        if not answer.endswith(b"\n"):
            raise BrokenPipeError("the process that hashes passwords has died")
        return answer[:-1].decode()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()


def _hash_in(answer: str) -> str:
    if answer.startswith("+"):
        return answer[1:]
    code, _, message = answer[1:].partition(" ")
    raise ApiError(-int(code), message)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    hasher = password_hasher()
    while len(head := requests.read(_LENGTHS.size)) == _LENGTHS.size:
        password, email = (requests.read(length).decode() for length in _LENGTHS.unpack(head))
        try:
            if email:
                check_password(password, email)
            answer = f"+{hasher.hash(password)}"
        except ApiError as refusal:
            answer = f"{refusal.code} {refusal.message}"
        answers.write(answer.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    if sys.argv[1:] != [SPOKEN]:
        sys.exit(f"this release does not speak {sys.argv[1:]} with its parent; restart the gateway")
    give_way()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        _serve(sys.stdin.buffer, sys.stdout.buffer)
