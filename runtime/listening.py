"""Opening a port, and closing it without resetting connections.

A listener that is closed resets the connections in its backlog, whose clients have already sent their
requests. Therefore the kernel is first told to ignore new connections, and the waiting ones are accepted. An
ignored client retries within a second, and then finds no listener, or the next owner of the port: nothing
that it has sent is lost.
"""

import asyncio
import ctypes
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from runtime.settings import PREFIX, SettingsError

_SO_ATTACH_FILTER: Final = 26
"""Linux's number; Python has no name for it."""
_PASS_OVER_NEW: Final = (
    (0x30, 0, 0, 13),  # load the byte of flags in the TCP header
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone is the first packet of a connection:
    (0x06, 0, 0, 0),  # drop it;
    (0x06, 0, 0, 0xFFFFFFFF),  # accept everything else
)
"""A classic BPF program: code, jump if true, jump if false, operand."""
_HANDSHAKE_S: Final = 0.05
"""Time for handshakes in progress to complete."""
_QUEUE_S_MAX: Final = 1.0
_LOOK_EVERY_S: Final = 0.01

_log = structlog.get_logger()


def listen(host: str, port: int, backlog: int, setting: str) -> socket.socket:
    """Return a listening TCP socket.

    Args:
        host: An address of this machine, or a name of one.
        port: 0 for a free one.
        backlog: Connections that the kernel keeps until they are accepted.
        setting: The name of the setting that chose the port, without its prefix.

    Raises:
        SettingsError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        message = f"{PREFIX}{setting}: cannot listen on {host}:{port}: {error.strerror}"
        raise SettingsError(message) from error
    listener.listen(backlog)
    return listener


async def accept_the_last(listener: socket.socket) -> None:
    """Refuse new connections to a listener, and return when its server has accepted all waiting ones.

    Close the listener next.
    """
    try:
        _pass_over_new(listener)
    except OSError as error:
        _log.warning("connections that come now may be reset", error=str(error))
    await asyncio.sleep(_HANDSHAKE_S)
    await until(lambda: not has_input(listener), _QUEUE_S_MAX)


async def until(true: Callable[[], bool], timeout_s: float) -> None:
    """Return when `true` returns true, or after `timeout_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not true():
        if loop.time() >= deadline:
            return
        await asyncio.sleep(_LOOK_EVERY_S)


def has_input(source: socket.socket) -> bool:
    """Return whether a socket has data to read or a connection to accept."""
    poll = select.poll()
    with suppress(OSError, ValueError):  # it may be closed
        poll.register(source, select.POLLIN)
        return bool(poll.poll(0))
    return False


def _pass_over_new(listener: socket.socket) -> None:
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _PASS_OVER_NEW)
    memory = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("HP", len(_PASS_OVER_NEW), ctypes.addressof(memory))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)
