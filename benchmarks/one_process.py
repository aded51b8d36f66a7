"""Where one process of an agent ends: what the interpreter itself takes for each MiB that a node receives or sends.

    python benchmarks/one_process.py [--mib 4096]

One thread at a time runs Python in a process; the kernel's work and the digests run beside it. So here the bytes cost
nothing: connections take and give them at once, blocks are not digested and not written. What is left is the share of
the interpreter's lock, and its inverse the rate that one process cannot exceed, however many processors there are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

from hubdist.model.chunks import Chunk, Piece
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Digest, Entry, Manifest
from hubdist.store.store import Store
from hubdist.streams.buffers import Buffers
from hubdist.streams.client import UnitStream
from hubdist.streams.follower import Follower, StripeEnded
from hubdist.streams.frames import FrameKind, Header, Request, encode_chunk
from hubdist.streams.lag import Progress
from hubdist.streams.sending import push_units
from hubdist.streams.units import Units

_DIGEST = bytes(DIGEST_BYTES)


class FreeConnection:
    """A connection whose bytes cost nothing: heads of units come from a list, and large reads are filled at once.

    Args:
        heads: What the other end says beside the bytes of units.
    """

    def __init__(self, heads: bytes = b"") -> None:
        self._heads = memoryview(heads)
        self._nowhere = os.open(os.devnull, os.O_WRONLY)

    def fileno(self) -> int:
        """Where a sender's bytes go."""
        return self._nowhere

    def recv_into(self, view: memoryview, *_: int) -> int:
        """Fill a buffer."""
        if len(view) < BLOCK_BYTES:
            view[:], self._heads = self._heads[: len(view)], self._heads[len(view) :]
        return len(view)

    def sendall(self, data: bytes, *_: int) -> None:
        """Drop what is said."""

    def shutdown(self, *_: int) -> None:
        """Nothing has to end."""

    def close(self) -> None:
        """End."""
        os.close(self._nowhere)


def chunks_of(mib: int) -> list[Chunk]:
    """The units of a model of one file."""
    return [Chunk(number, (Piece(0, number << 20, number + 1 << 20),), _DIGEST) for number in range(mib)]


def receive(mib: int) -> float:
    """Seconds of the interpreter for the units of one stripe, from the connection to the stage."""
    chunks, units = chunks_of(mib), Units(b"s" * 32, lambda _: 0)
    progress = Progress(mib, mib, has_begun=True)
    heads = b"".join(encode_chunk(each.index, each, progress=progress) for each in chunks)
    heads += Header(FrameKind.END, mib, progress=progress).encode()
    stream = UnitStream.__new__(UnitStream)
    stream.__dict__.update(_connection=FreeConnection(heads), _introduction=None, _asked=None, _buffer=bytearray())
    manifest = Manifest.of([Entry("weights.bin", mib << 20, Digest("0" * 64), _DIGEST * mib)])
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        Store(Path(folder)).stage_chunks(manifest) as stage,
        mock.patch("hubdist.model.chunks.digest_block", lambda _: _DIGEST),
        mock.patch("os.pwrite", lambda _, data, __: len(data)),
        mock.patch("os.pwritev", lambda _, parts, __: sum(map(len, parts))),
    ):
        follower = Follower(units, stage.write_chunk, lambda _: stream, Buffers(4), stripes=1)
        begun = time.process_time()
        follower.follow(0, "parent")
        ended = [news for news in follower.wait(600) if isinstance(news, StripeEnded)]
        took = time.process_time() - begun
        assert [news.error for news in ended] == [None], ended
        assert units.arrived == mib
    return took


def send(mib: int) -> float:
    """Seconds of the interpreter for the units of one stripe, from the node's units to the connection."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        os.truncate(file.fileno(), mib << 20)
        units = Units(b"s" * 32, lambda _: os.open(file.name, os.O_RDONLY))
        for chunk in chunks_of(mib):
            units.add(chunk.index, chunk)
        units.set_count(mib)
        connection = FreeConnection()
        with mock.patch("os.sendfile", lambda _, __, ___, size: size):
            begun = time.process_time()
            push_units(connection, units, Request(0, mib), threading.Event())  # type: ignore[arg-type]  # as a socket
            took = time.process_time() - begun
        connection.close()
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':<10} {'ms for each MiB':>16} {'at most MiB/s':>14} {'Gbit/s':>7}")
    for name, work in (("receive", receive), ("send", send)):
        each = min(work(options.mib) for _ in range(options.rounds)) / options.mib
        print(f"{name:<10} {each * 1e3:>16.3f} {1 / each:>14.0f} {8.388608e-3 / each:>7.1f}")


if __name__ == "__main__":
    main()
