"""A node's port: serves the chunks of its deliveries to other nodes, and fetches chunks from their ports.

Chunks are the units of the streams (`hubdist.streams`). The port is opened when the first delivery needs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from hubdist.errors import (
    HubdistError,
    IntegrityError,
    PeerError,
    PortClosedError,
    TransferTimeoutError,
    UnknownDeliveryError,
)
from hubdist.model.chunks import Chunk
from hubdist.streams.client import Unit, UnitStream
from hubdist.streams.encryption import Encryption, TlsFiles
from hubdist.streams.frames import DELIVERY_BYTES, PART_BYTES, Request
from hubdist.streams.server import StreamServer
from hubdist.streams.units import Units

Address = tuple[str, int]
"""Host and port."""

_MAX_IDLE = 8
_MAX_WAIT_S = 10.0
"""How long the other node may live and not send a chunk that the coordinator says it has: longer than it takes the
coordinator to tell the driver's agent of a chunk, and much shorter than the deadline of a chunk."""

_LOG = logging.getLogger(__name__)


class NodePort:
    """Serves and fetches chunks over TCP. Safe for several threads.

    Args:
        host: The address of this node, which other nodes reach; None: no port is ever opened.
        ports: The ports to choose from; None lets the system choose.
        tls: The files that bytes are encrypted with; None: they are not encrypted.
    """

    def __init__(self, host: str | None, ports: Sequence[int] | None = None, tls: TlsFiles | None = None) -> None:
        self._host = host
        self._ports = ports
        self._tls = tls
        self._encryption: Encryption | None = None
        self._guard = threading.Lock()
        self._server: StreamServer | None = None
        self._failed = False
        self._units: dict[bytes, Units] = {}
        self._idle: dict[tuple[bytes, Address], list[UnitStream]] = defaultdict(list)

    @property
    def address(self) -> Address | None:
        """Where other nodes reach this port; None if there is none, and chunks go by calls of agents."""
        if self._host is None:
            return None
        with self._guard:
            if self._server is None and not self._failed:
                try:
                    encryption = self._find_encryption()
                    self._server = StreamServer(self._host, self._find, ports=self._ports, encryption=encryption)
                except OSError as error:
                    self._failed = True
                    _LOG.warning("hubdist: no port can be opened on %s: %s", self._host, error)
            return None if self._server is None else self._server.address

    def join(self, delivery: str, secret: bytes, open_file: Callable[[int], int]) -> None:
        """Take part in a delivery; a second call for the same delivery changes nothing.

        Args:
            delivery: Name of the delivery.
            secret: The delivery's secret.
            open_file: As in `Units`.
        """
        key = _key(delivery)
        with self._guard:
            if key not in self._units:
                self._units[key] = Units(secret, open_file)
            server = self._server
        if server is not None:
            server.look_again()

    def units(self, delivery: str) -> Units:
        """The units of a delivery that this node takes part in.

        Raises:
            UnknownDeliveryError: This node takes no part in the delivery.
        """
        units = self._find(_key(delivery))
        if units is None:
            raise UnknownDeliveryError(f"this node takes no part in the delivery {delivery}")
        return units

    def open_stream(self, delivery: str, address: Address) -> UnitStream:
        """Open a stream from another node's port.

        Args:
            delivery: Name of the delivery.
            address: The other node's port.

        Raises:
            PortClosedError: The port cannot be reached.
            UnknownDeliveryError: The other node takes no part in the delivery, or not yet.
            PeerError: This node takes no part in the delivery any more.
            TransferTimeoutError: The other node does not answer.
        """
        units = self._find(_key(delivery))
        if units is None:  # not an `UnknownDeliveryError`: that would be the other node's
            raise PeerError(f"this node takes no part in the delivery {delivery} any more")
        return self._connect(address, units.secret, _key(delivery))

    def add(self, delivery: str, chunk: Chunk) -> None:
        """Let other nodes have a chunk that this node has checked and written.

        Args:
            delivery: Name of the delivery.
            chunk: The chunk.
        """
        units = self._find(_key(delivery))
        if units is not None:
            units.add(chunk.index, chunk)

    def leave(self, delivery: str) -> None:
        """Take no further part in a delivery."""
        self._leave(_key(delivery))

    def _leave(self, key: bytes) -> None:
        with self._guard:
            units = self._units.pop(key, None)
            idle = [stream for known in list(self._idle) if known[0] == key for stream in self._idle.pop(known)]
        if units is not None:
            units.close()
        for stream in idle:
            stream.close()

    def fetch(
        self,
        delivery: str,
        chunk: Chunk,
        address: Address,
        write: Callable[[Chunk, memoryview], None],
        *,
        timeout_s: float,
        cancelled: Future[None],
        clock: Callable[[], float] = time.monotonic,
    ) -> float:
        """Fetch a chunk from another node's port.

        Args:
            delivery: Name of the delivery.
            chunk: Which bytes, and their digests.
            address: The other node's port.
            write: Checks the bytes of a part of the chunk, and writes them.
            timeout_s: Deadline in seconds.
            cancelled: Done when nobody wants the chunk from there any more.
            clock: Tells the time in seconds.

        Returns:
            Seconds that the bytes took to come.

        Raises:
            PortClosedError: The port cannot be reached.
            IntegrityError: The bytes are not the chunk's.
            TransferError: The chunk did not come.
            StoreError: This node's disk refuses.
        """
        key = _key(delivery)
        units = self._find(key)
        if units is None:
            raise PeerError(f"this node takes no part in the delivery {delivery}")
        deadline = clock() + timeout_s
        stream = self._take_idle(key, address, chunk) or self._open(key, units, address, chunk)
        cancelled.add_done_callback(lambda _: stream.cancel())
        seconds = 0.0
        try:
            for part in chunk.split(PART_BYTES):
                begun = clock()
                data = _receive_part(stream, part, deadline, clock)
                seconds += clock() - begun
                write(part, data)
            stream.receive()  # the end of the answer
        except PeerError as error:
            stream.close()
            if cancelled.done():
                raise PeerError("the node that should send the chunk gives no answer, and others are asked") from None
            raise error from None
        except BaseException:
            stream.close()
            raise
        units.add(chunk.index, chunk)
        self._keep_idle(key, address, stream)
        return seconds

    def stop(self) -> None:
        """Close the port and all connections."""
        with self._guard:
            server, self._server, self._failed = self._server, None, True
            deliveries = list(self._units)
        for key in deliveries:
            self._leave(key)
        if server is not None:
            server.stop()

    def _find(self, key: bytes) -> Units | None:
        with self._guard:
            return self._units.get(key)

    def _open(self, key: bytes, units: Units, address: Address, chunk: Chunk) -> UnitStream:
        stream = self._connect(address, units.secret, key)
        try:
            stream.request(Request(chunk.index, chunk.index + 1))
        except BaseException:
            stream.close()
            raise
        return stream

    def _connect(self, address: Address, secret: bytes, key: bytes) -> UnitStream:
        try:
            with self._guard:
                encryption = self._find_encryption()
        except OSError as error:
            raise PortClosedError(f"this node cannot encrypt: {error}") from None
        return UnitStream(address, secret, key, encryption=encryption)

    def _find_encryption(self) -> Encryption | None:
        """What encrypts; call this with the guard held."""
        if self._encryption is None and self._tls is not None:
            self._encryption = Encryption(self._tls)
        return self._encryption

    def _take_idle(self, key: bytes, address: Address, chunk: Chunk) -> UnitStream | None:
        """A connection that is open, with the chunk asked for; the other end may have closed it meanwhile."""
        while True:
            with self._guard:
                known = self._idle.get((key, address))
                if not known:
                    return None
                stream = known.pop()
            with contextlib.suppress(HubdistError):
                if not stream.is_closed:
                    stream.request(Request(chunk.index, chunk.index + 1))
                    return stream
            stream.close()

    def _keep_idle(self, key: bytes, address: Address, stream: UnitStream) -> None:
        with self._guard:
            if key in self._units and len(self._idle[key, address]) < _MAX_IDLE:
                self._idle[key, address].append(stream)
                return
        stream.close()


def _receive_part(stream: UnitStream, part: Chunk, deadline: float, clock: Callable[[], float]) -> memoryview:
    patience = clock() + _MAX_WAIT_S
    while True:
        came = stream.receive()
        if clock() > deadline:
            raise TransferTimeoutError(f"chunk {part.index} did not come in time")
        if not isinstance(came, Unit) and clock() > patience:
            raise PeerError(f"the node that should send chunk {part.index} does not have it")
        if isinstance(came, Unit):
            if came.chunk != part:
                raise IntegrityError(f"another chunk came instead of chunk {part.index}, or with other digests")
            return came.data
        if came.is_end:
            raise PeerError("a stream ended without the chunk that was asked for")


def _key(delivery: str) -> bytes:
    """The delivery's id on the wire."""
    return hashlib.sha256(delivery.encode()).digest()[:DELIVERY_BYTES]
