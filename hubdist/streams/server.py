"""The parent's end of streams: a port that greets children and pushes units to them.

One thread accepts connections and greets them all: a thousand connections that never finish their greeting cost no
other thread, and one that greets properly waits for none of them. Each connection that has shown that it knows a
delivery's secret gets a thread of its own, which sends units from the page cache and holds no lock of the interpreter
meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable

from hubdist.errors import HubdistError
from hubdist.streams.encryption import Encryption
from hubdist.streams.frames import REQUEST_BYTES, Request
from hubdist.streams.guest import Guest
from hubdist.streams.sending import push_units
from hubdist.streams.sockets import listen, receive, set_timeouts, shut_down
from hubdist.streams.units import Units
from hubdist.system.threads import start_thread

GREETING_S = 2.0
"""How long a guest may be one: the child asks again if the parent does not take part in the delivery by then."""

_IDLE_S = 10.0
_SEND_S = 10.0
_TICK_S = 0.25
_WAKES = 4096
_JOIN_S = 5.0
_LOG = logging.getLogger(__name__)


class StreamServer:
    """Serves units of all deliveries of one process on one port.

    Args:
        host: The address to listen on.
        find: Returns the units of a delivery, by its id of 8 bytes; None if this process takes no part in it.
        ports: The ports to choose from, the first that is free; None lets the system choose.
        max_guests: Most connections that are being greeted; the oldest is closed for a new one.
        max_streams: Most connections that get units.
        encryption: Encrypts all connections; None: they are not encrypted.

    Attributes:
        address: Host and port.

    Raises:
        OSError: No port can be listened on.
    """

    def __init__(
        self,
        host: str,
        find: Callable[[bytes], Units | None],
        *,
        ports: Iterable[int] | None = None,
        max_guests: int = 64,
        max_streams: int = 1024,
        encryption: Encryption | None = None,
    ) -> None:
        self._find = find
        self._encryption = encryption
        self._max_guests = max_guests
        self._max_streams = max_streams
        with contextlib.ExitStack() as undo:  # descriptors may run out at any of these
            self._listener = listen(host, (0,) if ports is None else ports)
            undo.callback(self._listener.close)
            self._selector = selectors.DefaultSelector()
            undo.callback(self._selector.close)
            self._woken, self._wake = socket.socketpair()
            self._wake.setblocking(False)
            undo.pop_all()
        self.address: tuple[str, int] = (host, self._listener.getsockname()[1])
        self._guests: dict[socket.socket, Guest] = {}
        """In the order in which they came."""
        self._guard = threading.Lock()
        self._streams: dict[socket.socket, threading.Thread] = {}
        """Those that ended are taken out when the next one opens."""
        self._stopped = threading.Event()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread, _ = start_thread(self._greet_guests, "hubdist-streams")

    def stop(self) -> None:
        """Close the port and all connections; a second call does nothing."""
        with self._guard:
            if self._stopped.is_set():
                return
            self._stopped.set()
        self.look_again()
        self._thread.join(_JOIN_S)
        # Closed here and not by the thread, which may see `_stopped` before it is woken.
        if not self._thread.is_alive():
            for each in (self._selector, self._listener, self._woken, self._wake):
                each.close()
        with self._guard:
            streams = dict(self._streams)
        for connection in streams:
            shut_down(connection)
        for thread in streams.values():
            thread.join(_JOIN_S)

    def look_again(self) -> None:
        """Answer the guests that named a delivery in which this process takes part only now."""
        with contextlib.suppress(OSError):  # the port is closed; or the thread has not read many earlier calls yet
            self._wake.send(b".")

    # Guests

    def _greet_guests(self) -> None:
        try:
            while not self._stopped.is_set():
                for key, _ in self._selector.select(_TICK_S):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._woken:
                        self._woken.recv(_WAKES)
                        self._welcome_waiting()
                    else:
                        self._read(self._guests.get(key.fileobj))  # type: ignore[call-overload]  # a socket
                now = time.monotonic()
                for guest in [guest for guest in self._guests.values() if guest.deadline < now]:
                    self._dismiss(guest)
        finally:
            for guest in list(self._guests.values()):
                self._dismiss(guest)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # no descriptor is left, or the other end has gone again
            self._dismiss_oldest()
            self._stopped.wait(_TICK_S / 5)  # the listener stays readable: do not spin
            return
        if len(self._guests) >= self._max_guests:
            self._dismiss_oldest()
        connection.setblocking(False)
        if self._encryption is not None:
            try:
                connection = self._encryption.accept(connection)
            except OSError:  # it is gone again
                connection.close()
                return
        self._guests[connection] = Guest(connection, time.monotonic() + GREETING_S, self._encryption is None)
        self._selector.register(connection, selectors.EVENT_READ)

    def _dismiss_oldest(self) -> None:
        if self._guests:
            self._dismiss(next(iter(self._guests.values())))

    def _dismiss(self, guest: Guest) -> None:
        self._forget(guest)
        guest.connection.close()

    def _forget(self, guest: Guest) -> None:
        if self._guests.pop(guest.connection, None) is not None:
            self._selector.unregister(guest.connection)

    def _read(self, guest: Guest | None) -> None:
        """Read what a guest says, as far as it has come."""
        if guest is None:  # dismissed in this round
            return
        try:
            while (message := guest.read()) is not None:
                request = guest.hear(message)
                if request is not None:
                    self._forget(guest)
                    self._open(guest, request)
                    return
                assert guest.hello is not None
                guest.welcome(self._find(guest.hello.delivery))
        except (HubdistError, OSError) as error:
            _LOG.debug("hubdist: a connection to the port was refused: %s", error)
            self._dismiss(guest)

    def _welcome_waiting(self) -> None:
        for guest in [each for each in self._guests.values() if each.waits]:
            assert guest.hello is not None
            units = self._find(guest.hello.delivery)
            try:
                if units is not None:
                    guest.welcome(units)
            except OSError:
                self._dismiss(guest)

    # Streams

    def _open(self, guest: Guest, request: Request) -> None:
        assert guest.units is not None
        units = guest.units
        with self._guard:
            for connection in [each for each, thread in self._streams.items() if not thread.is_alive()]:
                del self._streams[connection]
            if len(self._streams) >= self._max_streams:
                guest.connection.close()
                return
            thread = threading.Thread(
                target=self._serve, args=(guest.connection, units, request), name="hubdist-stream", daemon=True
            )
            thread.start()
            self._streams[guest.connection] = thread

    def _serve(self, connection: socket.socket, units: Units, request: Request) -> None:
        try:
            set_timeouts(connection, receive_s=_IDLE_S, send_s=_SEND_S)
            with contextlib.suppress(HubdistError):  # the child is gone, silent, or has all that it wants
                while not self._stopped.is_set():
                    push_units(connection, units, request, self._stopped)
                    request = Request.decode(bytes(receive(connection, REQUEST_BYTES)))
        except OSError as error:
            _LOG.info("hubdist: a stream to another node ended: %s", error.strerror)
        finally:
            connection.close()  # `stop` waits for this thread too: the next stream takes it out of `_streams`
