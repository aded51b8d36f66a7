"""The least that a delivery costs: sendfile, `recv_into`, sha256 and `pwrite`, without a plan, repair or greeting.

Chunk k goes from the source to node k modulo N, and from there to all others. Whoever is asked for a chunk that has not
come yet waits. Nothing is secret, nothing is repaired, and a node that fails stops all: it is a bound to compare with.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from pathlib import Path

CHUNK = 1 << 20
_ASKED = 4
"""How many chunks are asked for at a time on each connection."""

_WAIT_S = 300.0
_NUMBER = struct.Struct("<I")

Address = tuple[str, int]


class FloorPeer:
    """One host: serves the chunks that it has, and pulls those that it lacks.

    Args:
        path: The file of the bytes.
        size: How many bytes.
        address: The host's address.
        filled: True for the source, whose file is there.
    """

    def __init__(self, path: Path, size: int, address: str, *, filled: bool) -> None:
        self._size = size
        self._count = -(-size // CHUNK)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self._file, size)
        path.unlink()
        self._has = bytearray([filled]) * self._count
        self._changed = threading.Condition()
        self._listener = socket.create_server((address, 0), backlog=64)
        self.address: Address = (address, self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self, peers: list[Address], me: int) -> str:
        """Get all chunks; the digest of all their digests.

        Args:
            peers: The source and all nodes.
            me: Which of them this host is, at least 1.
        """
        digests = [b""] * self._count
        nodes = len(peers) - 1
        errors: list[BaseException] = []

        def pull_from(peer: int) -> None:
            chunks = [number for number in range(self._count) if 1 + number % nodes == peer]
            try:
                self._pull(peers[0 if peer == me else peer], chunks, digests)
            except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that waits
                errors.append(error)

        threads = [threading.Thread(target=pull_from, args=(peer,)) for peer in range(1, nodes + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        os.fsync(self._file)
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def close(self) -> None:
        """Serve nothing more."""
        self._listener.close()
        os.close(self._file)

    def _pull(self, peer: Address, chunks: list[int], digests: list[bytes]) -> None:
        buffer, asked = memoryview(bytearray(CHUNK)), 0
        with socket.create_connection(peer, timeout=_WAIT_S) as connection:
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at, number in enumerate(chunks):
                while asked < min(len(chunks), at + _ASKED):
                    connection.sendall(_NUMBER.pack(chunks[asked]))
                    asked += 1
                data = buffer[: self._size_of(number)]
                filled = 0
                while filled < len(data):
                    count = connection.recv_into(data[filled:], 0, socket.MSG_WAITALL)
                    if not count:
                        raise EOFError(f"{peer} closed the connection")
                    filled += count
                digests[number] = hashlib.sha256(data).digest()
                os.pwrite(self._file, data, number * CHUNK)
                with self._changed:
                    self._has[number] = True
                    self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while len(asked := connection.recv(_NUMBER.size, socket.MSG_WAITALL)) == _NUMBER.size:
                (number,) = _NUMBER.unpack(asked)
                with self._changed:
                    if not self._changed.wait_for(lambda number=number: self._has[number], _WAIT_S):
                        return
                start, end = number * CHUNK, number * CHUNK + self._size_of(number)
                while start < end:
                    start += os.sendfile(connection.fileno(), self._file, start, end - start)

    def _size_of(self, number: int) -> int:
        return min(CHUNK, self._size - number * CHUNK)


def digest_of(data: memoryview) -> str:
    """What `FloorPeer.pull` returns for these bytes."""
    parts = (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
