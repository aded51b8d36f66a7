"""The child's end of a stream: asks a parent for units, and receives them one after another."""

from __future__ import annotations

from dataclasses import dataclass

from hubdist.errors import PeerError, PortClosedError
from hubdist.model.chunks import Chunk
from hubdist.streams.encryption import Encryption
from hubdist.streams.frames import (
    HEADER_BYTES,
    PIECE_BYTES,
    FrameKind,
    Header,
    Request,
    decode_pieces,
    digests_bytes,
)
from hubdist.streams.handshake import Introduction
from hubdist.streams.sockets import connect, is_silent, receive, receive_into, send, set_timeouts, shut_down

SILENT_S = 2.5
"""A stream without a byte for so long is dead: a parent that lives shows it twice a second."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as it came; nobody has checked its bytes.

    Attributes:
        chunk: Its number, pieces and digests, as the parent describes them.
        data: Its bytes; valid until the next unit is received.
        more: True if this is a part of the unit, and a further part follows.
    """

    chunk: Chunk
    data: memoryview
    more: bool = False


class UnitStream:
    """A connection to a parent. For one thread; another thread may call `cancel`.

    Args:
        address: The parent's host and port.
        secret: The delivery's secret.
        delivery: The delivery's id.
        encryption: Encrypts the connection; None: it is not encrypted.
        silent_s: Longest time in seconds without a byte.

    Raises:
        PortClosedError: The port cannot be reached, or the two ends agree on no encryption.
        UnknownDeliveryError: The parent takes no part in the delivery, or not yet.
        PeerError: The parent does not know the delivery's secret.
        TransferTimeoutError: The parent does not answer.
    """

    def __init__(
        self,
        address: tuple[str, int],
        secret: bytes,
        delivery: bytes,
        *,
        encryption: Encryption | None = None,
        silent_s: float = SILENT_S,
    ) -> None:
        try:
            self._connection = connect(address)
            if encryption is not None:
                self._connection = encryption.connect(self._connection, address[0], silent_s)
        except OSError as error:
            host, port = address
            raise PortClosedError(f"port {port} of {host} cannot be reached: {error}") from None
        try:
            set_timeouts(self._connection, receive_s=silent_s, send_s=silent_s)
            introduction = Introduction(self._connection, secret, delivery)
            self._introduction = None if introduction.finish() else introduction
        except BaseException:
            self._connection.close()
            raise
        self._asked: Request | None = None
        """What was asked for before the parent has begun."""
        self._waits = False
        self._buffer = bytearray()

    def request(self, request: Request) -> None:
        """Ask for units; the answer to an earlier request must have ended."""
        if self._introduction is None:
            send(self._connection, request.encode())
        else:
            self._asked = request

    def receive_header(self) -> Header:
        """The head of the next frame. After a unit's head, `receive_bytes` must be called.

        A parent that takes no part in the delivery yet is waited for; the first head says that it lives.

        Raises:
            UnknownDeliveryError: The parent takes no part in the delivery after some seconds.
            PeerError: The parent cannot go on, or has closed the connection; or what came is not a frame.
            TransferTimeoutError: Nothing came in time.
        """
        if self._introduction is not None:
            assert self._asked is not None
            if not self._waits:
                self._waits = True
                return Header(FrameKind.HEARTBEAT, self._asked.first)
            if not self._introduction.finish():
                raise PeerError("the node that should send says twice that it takes no part in the delivery")
            self._introduction = None
            send(self._connection, self._asked.encode())
        header = Header.decode(receive(self._connection, HEADER_BYTES))
        if header.kind is FrameKind.REFUSED:
            raise PeerError(f"the node that should send unit {header.number} cannot read it")
        return header

    def receive_bytes(self, header: Header, buffer: memoryview) -> Chunk:
        """The chunk of a unit, or of a part of it, with its bytes, which nobody has checked.

        Args:
            header: The head that `receive_header` returned.
            buffer: Where the bytes go; of `header.size`.

        Raises:
            PeerError: The parent has closed the connection, or what came is not a unit.
            TransferTimeoutError: Nothing came in time.
        """
        pieces = decode_pieces(header, receive(self._connection, header.pieces * PIECE_BYTES))
        digests = bytes(receive(self._connection, digests_bytes(pieces)))
        receive_into(self._connection, buffer)
        return Chunk(header.number, pieces, digests)

    def receive(self) -> Unit | Header:
        """The next unit; or a heartbeat, or the end of the answer. Raises what `receive_header` raises."""
        header = self.receive_header()
        if header.kind is not FrameKind.UNIT:
            return header
        if len(self._buffer) < header.size:
            self._buffer = bytearray(header.size)
        data = memoryview(self._buffer)[: header.size]
        return Unit(self.receive_bytes(header, data), data, header.more)

    @property
    def is_closed(self) -> bool:
        """True if the other end has closed the connection, or says something that nobody asked for."""
        return not is_silent(self._connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def cancel(self) -> None:
        """Let the thread that receives stop soon, with a PeerError."""
        shut_down(self._connection)
