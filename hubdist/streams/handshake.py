"""The handshake of a stream: both ends prove that they know the delivery's secret, without sending it.

The secret comes by Ray's own calls, under Ray's token or TLS where these are on. Each end adds a nonce to what is
signed, so an old handshake cannot be replayed; and each end signs another text, so a proof cannot be sent back. The
handshake tells who may ask. It does not hide the bytes on the wire, and does not protect them: each unit is checked
against its digests.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket

from hubdist.errors import PeerError, UnknownDeliveryError
from hubdist.streams.frames import NONCE_BYTES, PROOF_BYTES, Hello
from hubdist.streams.sockets import receive, send

SECRET_BYTES = 32
GREETING_BYTES = NONCE_BYTES + PROOF_BYTES
"""The parent's answer to a hello."""

NOT_YET = bytes(GREETING_BYTES)
"""What a parent says instead while it takes no part in the delivery: it may be told of the delivery later than its
children. It proves nothing, and nothing is told to who hears it."""


def greet(secret: bytes, hello: Hello, nonce: bytes) -> bytes:
    """The parent's answer to a hello: its nonce, and its proof.

    Args:
        secret: The delivery's secret.
        hello: What the child said.
        nonce: 16 random bytes of the parent.
    """
    return nonce + _proof(secret, b"parent", hello, nonce)


def is_proof(secret: bytes, hello: Hello, nonce: bytes, proof: bytes) -> bool:
    """True if a child's proof shows that the child knows the secret.

    Args:
        secret: The delivery's secret.
        hello: What the child said first.
        nonce: The parent's nonce.
        proof: What the child said then.
    """
    return hmac.compare_digest(proof, _proof(secret, b"child", hello, nonce))


class Introduction:
    """The child's side of the handshake.

    Args:
        connection: A new connection, with time-outs.
        secret: The delivery's secret.
        delivery: The delivery's id.

    Raises:
        PeerError: The parent has closed the connection.
    """

    def __init__(self, connection: socket.socket, secret: bytes, delivery: bytes) -> None:
        self._connection = connection
        self._secret = secret
        self._hello = Hello(delivery, secrets.token_bytes(NONCE_BYTES))
        send(connection, self._hello.encode())

    def finish(self) -> bool:
        """Wait for the parent's greeting, and prove that this end knows the secret.

        Returns:
            False if the parent says that it takes no part in the delivery yet; it greets later, or closes.

        Raises:
            UnknownDeliveryError: The parent closed the connection without a greeting: it takes no part in the delivery.
            PeerError: The parent does not know the secret.
            TransferTimeoutError: The parent does not answer.
        """
        try:
            greeting = bytes(receive(self._connection, GREETING_BYTES))
        except PeerError:
            raise UnknownDeliveryError("the node that should send takes no part in the delivery") from None
        if greeting == NOT_YET:
            return False
        nonce, proof = greeting[:NONCE_BYTES], greeting[NONCE_BYTES:]
        if not hmac.compare_digest(proof, _proof(self._secret, b"parent", self._hello, nonce)):
            raise PeerError("the node that should send does not know the delivery's secret")
        send(self._connection, _proof(self._secret, b"child", self._hello, nonce))
        return True


def _proof(secret: bytes, who: bytes, hello: Hello, nonce: bytes) -> bytes:
    return hmac.digest(secret, b"hubdist stream " + who + hello.encode() + nonce, hashlib.sha256)
