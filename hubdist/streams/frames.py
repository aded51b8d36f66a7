"""PURE: what the two ends of a stream say to each other, as bytes.

A child opens a connection and greets the parent; both prove by an HMAC that they know the delivery's secret (see
`hubdist.streams.handshake`). Then the child sends requests of a fixed size, which hold nothing but numbers: no names,
paths or pickles. The parent answers each request with frames: a header of a fixed size, and for a unit its chunk and
its bytes.

    child   -> parent   Hello (32 bytes), proof (32), Request (24)
    parent  -> child    nonce and proof (48), then frames

A parent that takes no part in the delivery yet says 48 bytes of zero before, and closes the connection if that lasts.

All numbers are little-endian.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Self

from hubdist.errors import PeerError
from hubdist.model.chunks import Chunk, Piece
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES
from hubdist.streams.lag import NO_PROGRESS, Progress

PART_BYTES = 1 << 20
"""A unit with more bytes comes in parts of this size, a frame for each: small enough for the processor's cache. More
bytes in one frame are a fault of the sender."""

MAX_PIECES = 1 << 20
MAX_STEP = 64
NONCE_BYTES = 16
PROOF_BYTES = 32
DELIVERY_BYTES = 8

_MAGIC = b"hubd"
_VERSION = 2
_HELLO = struct.Struct(f"<4sHH{DELIVERY_BYTES}s{NONCE_BYTES}s")
_REQUEST = struct.Struct("<4sIQQ")
_HEADER = struct.Struct("<BBHIQQII")
_PIECE = struct.Struct("<IQQ")

HELLO_BYTES = _HELLO.size
REQUEST_BYTES = _REQUEST.size
HEADER_BYTES = _HEADER.size
PIECE_BYTES = _PIECE.size


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a connection.

    Attributes:
        delivery: The delivery, by its id of 8 bytes; not a secret.
        nonce: 16 random bytes of the child.
    """

    delivery: bytes
    nonce: bytes

    def encode(self) -> bytes:
        """The message as bytes."""
        return _HELLO.pack(_MAGIC, _VERSION, 0, self.delivery, self.nonce)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the message.

        Raises:
            PeerError: The other end does not speak this protocol, or speaks another version of it.
        """
        magic, version, _, delivery, nonce = _HELLO.unpack(data)
        if (magic, version) != (_MAGIC, _VERSION):
            raise PeerError("a connection does not begin as a stream of this version of hubdist does")
        return cls(delivery, nonce)


@dataclass(frozen=True, slots=True)
class Request:
    """Which units a child wants: `first`, `first + step` and so on, below `end`.

    Attributes:
        first: The first unit.
        end: Units from this one on are not wanted; `NO_END` for all that the delivery has.
        step: The distance between units, from 1 to `MAX_STEP`; 8 for one of eight stripes.
    """

    first: int
    end: int
    step: int = 1

    def encode(self) -> bytes:
        """The request as bytes."""
        return _REQUEST.pack(_MAGIC, self.step, self.first, self.end)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the request.

        Raises:
            PeerError: The bytes are not a request.
        """
        magic, step, first, end = _REQUEST.unpack(data)
        if magic != _MAGIC or not 1 <= step <= MAX_STEP:
            raise PeerError("a request for units is malformed")
        return cls(first, end, step)


NO_END = (1 << 64) - 1


class FrameKind(enum.IntEnum):
    """What a frame says.

    Attributes:
        UNIT: A unit follows: its chunk, and its bytes.
        HEARTBEAT: The parent lives, and has nothing to send yet.
        END: The request is answered.
        REFUSED: The parent cannot go on, and closes the connection.
    """

    UNIT = 1
    HEARTBEAT = 2
    END = 3
    REFUSED = 4


_KINDS = frozenset(int(kind) for kind in FrameKind)


@dataclass(frozen=True, slots=True)
class Header:
    """The head of each frame.

    Attributes:
        kind: What the frame says.
        number: The unit. In END, how many units the delivery has, `NO_END` if the parent does not know. In other
            frames, the next unit that the parent would send.
        pieces: How many pieces the unit's chunk has.
        size: Bytes of the unit, or of this part of the unit.
        more: In a unit: true if a further part of the unit follows.
        progress: How far the parent is with the stripes of which the request asks for one.
    """

    kind: FrameKind
    number: int
    pieces: int = 0
    size: int = 0
    more: bool = False
    progress: Progress = NO_PROGRESS

    @property
    def is_end(self) -> bool:
        """True if the request is answered."""
        return self.kind is FrameKind.END

    def encode(self) -> bytes:
        """The header as bytes."""
        progress = self.progress
        flags = self.more | progress.has_begun << 1
        return _HEADER.pack(self.kind, flags, 0, self.pieces, self.number, self.size, progress.count, progress.lead)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read the header.

        Raises:
            PeerError: The bytes are not a header, or announce more than a unit may have.
        """
        kind, flags, _, pieces, number, size, count, lead = _HEADER.unpack(data)
        if kind not in _KINDS or pieces > MAX_PIECES or size > PART_BYTES:
            raise PeerError("a frame of a stream is malformed")
        progress = Progress(count, lead, bool(flags & 2))
        return cls(FrameKind(kind), number, pieces, size, bool(flags & 1), progress)


def encode_chunk(number: int, chunk: Chunk, *, more: bool = False, progress: Progress = NO_PROGRESS) -> bytes:
    """The head of a unit's frame: header, pieces and digests. The unit's bytes follow it.

    Args:
        number: The unit.
        chunk: Its pieces, and the digests of their blocks.
        more: The chunk is a part of the unit, and a further part follows.
        progress: How far the sender is.
    """
    header = Header(FrameKind.UNIT, number, len(chunk.pieces), chunk.size, more, progress)
    pieces = (_PIECE.pack(piece.entry_index, piece.start, piece.end) for piece in chunk.pieces)
    return b"".join((header.encode(), *pieces, chunk.block_digests))


def decode_pieces(header: Header, data: bytes | bytearray) -> tuple[Piece, ...]:
    """Read the pieces of a unit.

    Args:
        header: The unit's header.
        data: `header.pieces` pieces of `PIECE_BYTES` each.

    Raises:
        PeerError: The pieces do not make up the unit's size.
    """
    pieces = tuple(Piece(*fields) for fields in _PIECE.iter_unpack(data))
    if sum(piece.size for piece in pieces) != header.size or any(piece.size < 1 for piece in pieces):
        raise PeerError(f"the pieces of unit {header.number} do not make up its {header.size} bytes")
    return pieces


def digests_bytes(pieces: tuple[Piece, ...]) -> int:
    """Bytes of the digests of all blocks of some pieces."""
    return sum(-(-piece.size // BLOCK_BYTES) for piece in pieces) * DIGEST_BYTES
