"""The control channel between the caller and one worker: JSON messages and file descriptors over a socket pair."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")

Check = Callable[[float], None]
"""Called a few times a second while something is awaited, with the ``time.monotonic()`` at which the wait began.
It raises where waiting on has become pointless."""

SLICE_SECONDS = 0.1
"""How long a wait blocks before it looks for failures and lets Python handle signals."""

_LENGTH = struct.Struct("<I")
_FDS_PER_MESSAGE = 100  # the kernel takes at most 253 with one byte


class ChannelClosedError(Exception):
    """The other end is gone."""


class Channel:
    """One end of a stream socket. Not thread safe.

    Args:
        sock: a connected Unix stream socket, owned by the channel from now on.
        check: called while a send or receive has to wait; None waits for as long as it takes.
    """

    def __init__(self, sock: socket.socket, check: Check | None = None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._check = check

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message, and duplicates of ``fds`` with it.

        Raises:
            ChannelClosedError: the other end is gone.
        """
        body = json.dumps({**message, "fds": len(fds)} if fds else message).encode()
        self._send_all(_LENGTH.pack(len(body)) + body)
        for start in range(0, len(fds), _FDS_PER_MESSAGE):
            packed = array.array("i", fds[start : start + _FDS_PER_MESSAGE])
            self._send_fds(packed)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next message and the file descriptors that came with it; they belong to the receiver.

        Raises:
            ChannelClosedError: the other end is gone.
        """
        (length,) = _LENGTH.unpack(self._receive_exactly(_LENGTH.size))
        message = json.loads(self._receive_exactly(length))
        fds: list[int] = []
        expected = message.pop("fds", 0)
        while len(fds) < expected:
            received = self._receive_fds()
            fds += received
            if not received:
                for fd in fds:
                    os.close(fd)
                raise ChannelClosedError(f"{len(fds)} of {expected} file descriptors arrived")
        return message, fds

    def close(self) -> None:
        self._socket.close()

    def _send_fds(self, packed: array.array[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
        self._retry(select.POLLOUT, lambda: self._socket.sendmsg([b"f"], ancillary))

    def _receive_fds(self) -> list[int]:
        result = self._retry(select.POLLIN, lambda: socket.recv_fds(self._socket, 1, _FDS_PER_MESSAGE))
        return result[1]

    def _send_all(self, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            rest = memoryview(data)[sent:]
            sent += self._retry(select.POLLOUT, lambda rest=rest: self._socket.send(rest))  # type: ignore[misc]

    def _receive_exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        done = 0
        while done < count:
            rest = memoryview(data)[done:]
            received = self._retry(select.POLLIN, lambda rest=rest: self._socket.recv_into(rest))  # type: ignore[misc]
            if received == 0:
                raise ChannelClosedError("the other end closed the connection")
            done += received
        return data

    def _retry(self, event: int, attempt: Callable[[], Result]) -> Result:
        """``attempt()``, waiting for ``event`` for as long as the socket is not ready."""
        start = time.monotonic()
        while True:
            try:
                return attempt()
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._socket, event)
                poller.poll(None if self._check is None else SLICE_SECONDS * 1000)
            except ConnectionError as error:
                raise ChannelClosedError(str(error)) from error
            if self._check is not None:
                self._check(start)
