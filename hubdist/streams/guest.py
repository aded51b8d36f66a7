"""A connection to a port that has not shown yet that it knows the secret of a delivery."""

from __future__ import annotations

import secrets
import socket
import ssl
from dataclasses import dataclass, field

from hubdist.errors import PeerError
from hubdist.streams.frames import HELLO_BYTES, NONCE_BYTES, PROOF_BYTES, REQUEST_BYTES, Hello, Request
from hubdist.streams.handshake import NOT_YET, greet, is_proof
from hubdist.streams.units import Units


@dataclass(slots=True, eq=False)
class Guest:
    """One such connection. No method blocks.

    Attributes:
        connection: The connection, not blocking.
        deadline: When it is closed, by the monotonic clock.
        has_keys: False while it and this end have to agree on encryption.
        received: What it has said and nobody has read yet.
        hello: Its first message, once it is there.
        nonce: What this end has answered.
        units: The delivery that it named; None while this process takes no part in it.
    """

    connection: socket.socket
    deadline: float
    has_keys: bool
    received: bytearray = field(default_factory=bytearray)
    hello: Hello | None = None
    nonce: bytes = b""
    units: Units | None = None

    @property
    def waits(self) -> bool:
        """True if it has named a delivery in which this process takes no part yet."""
        return self.hello is not None and self.units is None

    def read(self) -> bytes | None:
        """The next message, once it is there; each guest says exactly two before it gets units.

        Returns:
            None if more has to come first.

        Raises:
            PeerError: It has closed the connection, or does not wait for the answer.
            OSError: The connection is broken, or it does not agree on keys.
        """
        try:
            if not self.has_keys:
                assert isinstance(self.connection, ssl.SSLSocket)
                self.connection.do_handshake()  # what this end says fits into an empty buffer
                self.has_keys = True
            wanted = HELLO_BYTES if self.hello is None else PROOF_BYTES + REQUEST_BYTES
            data = self.connection.recv(wanted - len(self.received))
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        if not data or self.waits:
            raise PeerError("a connection has gone, or does not wait for the answer")
        self.received += data
        if len(self.received) < wanted:
            return None
        message = bytes(self.received)
        self.received.clear()
        return message

    def hear(self, message: bytes) -> Request | None:
        """Take in a message.

        Args:
            message: The hello, or proof and request.

        Returns:
            The request of a guest that has shown that it knows the secret; None after a hello.

        Raises:
            PeerError: It does not know the secret, or does not speak this protocol.
        """
        if self.hello is None:
            self.hello = Hello.decode(message)
            return None
        assert self.units is not None
        if not is_proof(self.units.secret, self.hello, self.nonce, message[:PROOF_BYTES]):
            raise PeerError("a connection does not know the secret of the delivery that it names")
        return Request.decode(message[PROOF_BYTES:])

    def welcome(self, units: Units | None) -> None:
        """Answer the hello.

        Args:
            units: Of the delivery that it names; None if this process takes no part in it yet.

        Raises:
            OSError: The connection is broken.
        """
        assert self.hello is not None
        self.units = units
        if units is None:
            self.connection.send(NOT_YET)
            return
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self.connection.send(greet(units.secret, self.hello, self.nonce))  # fits into an empty buffer
