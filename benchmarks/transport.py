"""What encryption and digests cost: processor seconds for each GiB from one process's file to another's.

    python benchmarks/transport.py              # `pip install blake3` for its line

One connection over the loopback. The receiver digests with sha256 and writes, as a node does. With TLS there is no
`sendfile`: the bytes pass through Python's `ssl` at both ends, with a certificate that is made for the run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import mmap
import multiprocessing
import os
import resource
import socket
import ssl
import subprocess
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MIB = 1 << 20
FILE_MIB = 64


def spent() -> float:
    """Processor seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def make_certificate(folder: Path) -> None:
    """A key and a certificate for one run."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=benchmark"]
    command += ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def send(folder: Path, mib: int, tls: bool, answers: Connection) -> None:
    """Send the file over and over to one connection; tell the port, and what it cost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answers.send(listener.getsockname()[1])
        connection, _ = listener.accept()
    file = os.open(folder / "file", os.O_RDONLY)
    data = memoryview(mmap.mmap(file, FILE_MIB * MIB, prot=mmap.PROT_READ))
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "certificate", folder / "key")
        connection = context.wrap_socket(connection, server_side=True)
    begun = spent()
    for number in range(mib):
        start = number % FILE_MIB * MIB
        if tls:
            connection.sendall(data[start : start + MIB])
            continue
        end = start + MIB
        while start < end:
            start += os.sendfile(connection.fileno(), file, start, end - start)
    answers.send(spent() - begun)
    connection.close()


def receive(folder: Path, port: int, mib: int, tls: bool) -> tuple[float, float]:
    """Receive, digest and write; seconds, and processor seconds."""
    connection: socket.socket = socket.create_connection(("127.0.0.1", port))
    if tls:
        context = ssl.create_default_context(cafile=str(folder / "certificate"))
        context.check_hostname = False
        connection = context.wrap_socket(connection)
    buffer = memoryview(bytearray(MIB))
    file = os.open(folder / "copy", os.O_RDWR | os.O_CREAT)
    begun, begun_spent = time.monotonic(), spent()
    for number in range(mib):
        filled = 0
        while filled < MIB:
            count = connection.recv_into(buffer[filled:], 0, 0 if tls else socket.MSG_WAITALL)
            if not count:
                raise EOFError("the sender closed the connection")
            filled += count
        hashlib.sha256(buffer).digest()
        os.pwrite(file, buffer, number % FILE_MIB * MIB)
    return time.monotonic() - begun, spent() - begun_spent


def digest_costs() -> None:
    """Seconds of one processor for each GiB, by digest."""
    data = os.urandom(MIB)
    digests: dict[str, Any] = {"sha256": hashlib.sha256}
    try:
        digests["blake3"] = importlib.import_module("blake3").blake3
    except ImportError:
        print("blake3 is not installed")
    for name, digest in digests.items():
        begun = time.thread_time()
        for _ in range(256):
            digest(data).digest()
        print(f"{name:<8} {4 * (time.thread_time() - begun):>6.2f} s/GiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    digest_costs()
    print(f"{'':<8} {'MiB/s':>6} {'sender':>7} {'receiver':>9}   processor s/GiB")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        make_certificate(folder)
        (folder / "file").write_bytes(os.urandom(FILE_MIB * MIB))
        for _ in range(options.rounds):
            for tls in (False, True):
                mine, theirs = multiprocessing.Pipe()
                sender = multiprocessing.Process(target=send, args=(folder, options.mib, tls, theirs))
                sender.start()
                took_s, receiver_s = receive(folder, mine.recv(), options.mib, tls)
                sender_s = mine.recv()
                sender.join(30)
                per_gib = 1024 / options.mib
                rate, way = options.mib / took_s, "TLS" if tls else "plain"
                print(f"{way:<8} {rate:>6.0f} {sender_s * per_gib:>7.2f} {receiver_s * per_gib:>9.2f}")


if __name__ == "__main__":
    main()
