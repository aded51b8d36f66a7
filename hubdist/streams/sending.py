"""Sends the units of one stream from the page cache."""

from __future__ import annotations

import os
import socket
import threading
from typing import Self

from hubdist.errors import HubdistError, PeerError
from hubdist.model.chunks import Chunk
from hubdist.streams.frames import NO_END, PART_BYTES, FrameKind, Header, Request, encode_chunk
from hubdist.streams.lag import WINDOW, Progress
from hubdist.streams.sockets import send, send_file, send_head
from hubdist.streams.units import Units

HEARTBEAT_S = 0.5
"""How often a parent that has nothing to send shows that it lives, and how far it is."""


def push_units(connection: socket.socket, units: Units, request: Request, stopped: threading.Event) -> None:
    """Answer a request: send each unit as soon as this node has it, and show now and then that this node lives.

    Args:
        connection: The connection, whose greeting is over.
        units: What this node has.
        request: Which units the other end wants.
        stopped: Set when this node sends nothing more.

    Raises:
        HubdistError: The connection is gone, or a unit cannot be read.
        OSError: The other end takes nothing more.
    """
    number = request.first
    try:
        with _OpenFile(units) as file:
            while number < request.end and not units.is_beyond(number):
                if stopped.is_set():
                    return
                progress = units.progress(request)
                lead = (request.step, progress.lead + WINDOW)
                chunk = units.wait(number, HEARTBEAT_S, lead=lead)
                progress = units.progress(request)
                if chunk is not None:
                    _send_chunk(connection, number, chunk, file, progress)
                    number += request.step
                elif not units.is_beyond(number):
                    send(connection, Header(FrameKind.HEARTBEAT, number, progress=progress).encode())
    except _NotSentError as refused:
        send(connection, Header(FrameKind.REFUSED, number).encode())
        raise refused.error from None
    send(connection, Header(FrameKind.END, NO_END if units.count is None else units.count).encode())


class _NotSentError(Exception):
    """A unit cannot be read, and nothing of it was sent."""

    def __init__(self, error: HubdistError) -> None:
        super().__init__(str(error))
        self.error = error


class _OpenFile:
    """The file that a stream sends from: one descriptor at a time, because units come in the order of the files."""

    def __init__(self, units: Units) -> None:
        self._units = units
        self._number: int | None = None
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def get(self, number: int) -> int:
        """The descriptor of a file, by its number."""
        if number != self._number:
            self._close()
            self._descriptor = self._units.open_file(number)
            self._number = number
        return self._descriptor

    def _close(self) -> None:
        if self._number is not None:
            os.close(self._descriptor)
            self._number = None


def _send_chunk(connection: socket.socket, number: int, chunk: Chunk, file: _OpenFile, progress: Progress) -> None:
    parts = chunk.split(PART_BYTES)
    for at, part in enumerate(parts, 1):
        head = encode_chunk(number, part, more=at < len(parts), progress=progress)
        _send_part(connection, part, file, head)


def _send_part(connection: socket.socket, chunk: Chunk, file: _OpenFile, head: bytes) -> None:
    try:
        file.get(chunk.pieces[0].entry_index)
    except HubdistError as error:
        raise _NotSentError(error) from None
    send_head(connection, head)
    for piece in chunk.pieces:
        try:
            send_file(connection, file.get(piece.entry_index), piece.start, piece.end)
        except EOFError as ended:
            raise PeerError(f"file {piece.entry_index} of a model ends at byte {ended}") from None
