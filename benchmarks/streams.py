"""What streams cost beside the floor: two processes on this machine, one sends a file, the other checks and writes it.

    python benchmarks/streams.py [--mib 512] [--connections 1 4 8] [--rounds 3] [--encrypted]

The floor is what no Python program can undercut: `sendfile` out, `recv_into`, sha256 and `pwrite` in, in parts of
1 MiB, with as many connections and no protocol. hubdist sends the same bytes through `hubdist.streams` into a stage of
a store; with `--encrypted` also as where Ray encrypts, with a certificate that is made for the run. Printed are the
rates and the processor seconds for each GiB of both processes together and of the sender alone, medians of the rounds,
which take turns; and first what digests take. The files lie in memory (/dev/shm).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import multiprocessing
import os
import resource
import secrets
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import BLOCK_BYTES, EntryDigester, Manifest, digest_block
from hubdist.store.store import Store
from hubdist.streams.buffers import Buffers
from hubdist.streams.client import UnitStream
from hubdist.streams.encryption import Encryption
from hubdist.streams.follower import Follower, StripeEnded
from hubdist.streams.server import StreamServer
from hubdist.streams.units import Units

SECRET = secrets.token_bytes(32)
DELIVERY = b"delivery"
_RANGE = struct.Struct("<QQ")


def processor_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def manifest_of(path: Path) -> Manifest:
    """The manifest of one file."""
    digester = EntryDigester("weights.bin")
    with path.open("rb") as file:
        while data := file.read(BLOCK_BYTES):
            digester.update(data)
    return Manifest.of([digester.entry()])


def send_floor(path: Path, control: Connection) -> None:
    """Send ranges of a file to whoever asks."""
    descriptor = os.open(path, os.O_RDONLY)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def answer(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while len(asked := connection.recv(_RANGE.size, socket.MSG_WAITALL)) == _RANGE.size:
            at, end = _RANGE.unpack(asked)
            while at < end:
                at += os.sendfile(connection.fileno(), descriptor, at, end - at)

    def accept() -> None:
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    begun = processor_seconds()
    control.send(listener.getsockname()[:2])
    control.recv()
    control.send(processor_seconds() - begun)


def send_streams(path: Path, control: Connection, encryption: Encryption | None = None) -> None:
    """Serve a file as the units of a delivery."""
    manifest = manifest_of(path)
    units = Units(SECRET, lambda _: os.open(path, os.O_RDONLY))
    for number, chunk in enumerate(cut_chunks(manifest, BLOCK_BYTES)):
        units.add(number, chunk)
    units.set_count(len(cut_chunks(manifest, BLOCK_BYTES)))
    server = StreamServer("127.0.0.1", {DELIVERY: units}.get, encryption=encryption)
    begun = processor_seconds()
    control.send(server.address)
    control.recv()
    control.send(processor_seconds() - begun)
    server.stop()


def receive_floor(address: tuple[str, int], size: int, folder: Path, connections: int) -> None:
    """Check and write the whole file; each connection takes every n-th MiB."""
    descriptor = os.open(folder / "floor", os.O_RDWR | os.O_CREAT)

    def receive(first: int) -> None:
        with socket.create_connection(address) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffer = memoryview(bytearray(BLOCK_BYTES))
            starts = range(first * BLOCK_BYTES, size, connections * BLOCK_BYTES)
            ranges = [(start, min(start + BLOCK_BYTES, size)) for start in starts]
            for place, (start, end) in enumerate(ranges):
                for ahead in ranges[0:4] if place == 0 else ranges[place + 3 : place + 4]:
                    connection.sendall(_RANGE.pack(*ahead))
                filled = 0
                while filled < end - start:
                    view = buffer[filled : end - start]
                    filled += connection.recv_into(view, len(view), socket.MSG_WAITALL)
                hashlib.sha256(buffer[: end - start]).digest()
                os.pwrite(descriptor, buffer[: end - start], start)

    threads = [threading.Thread(target=receive, args=(first,)) for first in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(descriptor)
    (folder / "floor").unlink()


def receive_streams(
    address: tuple[str, int], manifest: Manifest, folder: Path, connections: int, encryption: Encryption | None = None
) -> None:
    """Fill a stage with all stripes; it is closed, and not published, which would measure the disk."""
    store = Store(folder / "store")
    with store.stage_chunks(manifest) as stage:
        units = Units(SECRET, stage.open_file)
        follower = Follower(
            units,
            stage.write_chunk,
            lambda _: UnitStream(address, SECRET, DELIVERY, encryption=encryption),
            Buffers(64),
            stripes=connections,
        )
        for stripe in range(connections):
            follower.follow(stripe, "sender")
        ended = 0
        while ended < connections:
            for news in follower.wait(60):
                if isinstance(news, StripeEnded):
                    if news.error is not None:
                        raise news.error
                    ended += 1
        follower.stop()
        stage.close(manifest, range(len(manifest.entries)))


def measure(
    send: Callable[[Path, Connection], None], receive: Callable[[tuple[str, int]], None], path: Path
) -> tuple[float, float, float]:
    """Seconds, processor seconds of both processes, and of the sender."""
    ours, theirs = multiprocessing.Pipe()
    sender = multiprocessing.get_context("fork").Process(target=send, args=(path, theirs))
    sender.start()
    address = ours.recv()
    begun, used = time.monotonic(), processor_seconds()
    receive(address)
    seconds, used = time.monotonic() - begun, processor_seconds() - used
    ours.send(None)
    by_sender: float = ours.recv()
    sender.join()
    return seconds, used + by_sender, by_sender


def digest_costs() -> None:
    """Print seconds of one processor for each GiB, by digest."""
    data = os.urandom(BLOCK_BYTES)
    digests: dict[str, Callable[[bytes], object]] = {
        "sha256, for files": lambda block: hashlib.sha256(block).digest(),
        "BLAKE3, for blocks": digest_block,
    }
    for name, digest in digests.items():
        begun = time.thread_time()
        for _ in range(256):
            digest(data)
        print(f"{name:<34} {4 * (time.thread_time() - begun):>18.2f}")


def make_encryption(folder: Path) -> Encryption:
    """Encryption with a certificate for this run."""
    certificate, key = folder / "certificate", folder / "key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=benchmark"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return Encryption((str(certificate), str(key), str(certificate)))


def compare(folder: Path, options: argparse.Namespace, connections: int) -> None:
    """Measure all ways in turns with a number of connections, and print."""
    path, size = folder / "weights.bin", options.mib << 20
    manifest = manifest_of(path)
    ways: dict[str, Encryption | None] = {"streams": None}
    if options.encrypted:
        ways["encrypted"] = make_encryption(folder)
    found: dict[str, list[tuple[float, float, float]]] = {who: [] for who in ("floor", *ways)}
    for _ in range(options.rounds):
        found["floor"].append(measure(send_floor, lambda at: receive_floor(at, size, folder, connections), path))
        for who, way in ways.items():
            send = functools.partial(send_streams, encryption=way)
            receive = functools.partial(
                receive_streams, manifest=manifest, folder=folder, connections=connections, encryption=way
            )
            found[who].append(measure(send, receive, path))
            shutil.rmtree(folder / "store", ignore_errors=True)
    rates = {who: options.mib / statistics.median(each[0] for each in found[who]) for who in found}
    for who, rate in rates.items():
        used, sent = (statistics.median(each[at] for each in found[who]) / options.mib * 1024 for at in (1, 2))
        over = rate / rates["floor"]
        print(f"{who + f', {connections} connections':<24} {rate:>9.0f} {used:>18.2f} {sent:>13.2f} {over:>11.2f}")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encrypted", action="store_true", help="measure also with TLS; needs openssl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        with (folder / "weights.bin").open("wb") as file:
            for _ in range(options.mib):
                file.write(os.urandom(1 << 20))
        print(f"{'':<24} {'MiB/s':>9} {'processor s / GiB':>18} {'of it sender':>13} {'over floor':>11}")
        digest_costs()
        for connections in options.connections:
            compare(folder, options, connections)


if __name__ == "__main__":
    main()
