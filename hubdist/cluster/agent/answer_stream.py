"""Units by calls of Ray, for a parent whose port cannot be reached."""

from __future__ import annotations

from concurrent.futures import Future

from hubdist.cluster.agent.chunk_rpc import DescribeUnit, RequestPart, Sender
from hubdist.errors import PeerError
from hubdist.model.chunks import Chunk
from hubdist.streams.frames import NO_END, PART_BYTES, FrameKind, Header, Request

_TIMEOUT_S = 60.0
"""Longest time for the bytes of one part, from a parent that lives: a part that does not come breaks the stream."""


class AnswerStream:
    """A stream whose units are the answers of another agent. For one thread; another one may call `cancel`.

    The parent tells nothing of its progress, so a child never takes it for a slow one.

    Args:
        agent: The parent's agent, made by `pickle_agent`.
        delivery: Name of the delivery.
        request: Gets bytes from another agent, as `request_part`.
        describe: Asks another agent for a unit's chunk, as `describe_unit`.
    """

    def __init__(self, agent: bytes, delivery: str, request: RequestPart, describe: DescribeUnit) -> None:
        self._cancelled: Future[None] = Future()
        self._sender = Sender(agent, cancelled=self._cancelled)
        self._delivery = delivery
        self._request = request
        self._describe = describe
        self._wanted = Request(0, 0)
        self._parts: list[Chunk] = []

    def request(self, request: Request) -> None:
        """Ask for units; the answer to an earlier request must have ended."""
        self._wanted = request

    def receive_header(self) -> Header:
        """The head of the next unit, a heartbeat, or the end of the answer.

        Raises:
            SenderLostError: The parent is gone.
            UnknownDeliveryError: The parent takes no part in the delivery, or not yet.
            PeerError: This stream was left.
            TransferTimeoutError: The parent does not answer.
        """
        if self._cancelled.done():
            raise PeerError("the stream was left")
        wanted = self._wanted
        if not self._parts:
            if wanted.first >= wanted.end:
                return Header(FrameKind.END, NO_END)
            found = self._describe(self._sender, self._delivery, wanted.first)
            if found is None:
                return Header(FrameKind.HEARTBEAT, wanted.first)
            if isinstance(found, int):
                return Header(FrameKind.END, found)
            self._parts = found.split(PART_BYTES)
            self._wanted = Request(wanted.first + wanted.step, wanted.end, wanted.step)
        part = self._parts[0]
        return Header(FrameKind.UNIT, part.index, len(part.pieces), part.size, len(self._parts) > 1)

    def receive_bytes(self, header: Header, buffer: memoryview) -> Chunk:
        """The chunk of the unit whose head came last; its bytes, which nobody has checked, go into the buffer.

        Args:
            header: What `receive_header` returned.
            buffer: Of `header.size` bytes.

        Raises:
            IntegrityError: The parent does not have the bytes.
            SenderLostError: The parent is gone.
            TransferError: The bytes did not come in time, or this stream was left.
        """
        part = self._parts.pop(0)
        data = self._request(self._sender, self._delivery, part, _TIMEOUT_S)
        if len(data) != header.size:
            raise PeerError(f"{len(data)} bytes of unit {header.number} came instead of {header.size}")
        buffer[:] = data
        return part

    def cancel(self) -> None:
        """Let the thread that receives stop soon, with a PeerError."""
        if not self._cancelled.done():
            self._cancelled.set_result(None)

    def close(self) -> None:
        """Nothing is open."""
