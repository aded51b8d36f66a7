"""TensorFlow servers in processes of their own, also such that cannot see this machine's files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_SERVE = """
import sys
import tensorflow as tf
server = tf.distribute.Server({sys.argv[1]: ["localhost:0"]}, job_name=sys.argv[1], task_index=0, protocol="grpc")
print(server.target.removeprefix("grpc://"), flush=True)
sys.stdin.read()  # ends with the test
"""


def may_unshare() -> bool:
    """Whether this process may make mount namespaces."""
    try:
        done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=10, check=False)
    except FileNotFoundError:
        return False
    return os.geteuid() == 0 and done.returncode == 0


class TfServer:
    """A server that runs.

    Attributes:
        process: The process.
        address: `localhost:<port>`.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.address = ""

    def wait(self) -> None:
        """Wait until it listens; the test's own deadline ends it."""
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the TensorFlow server did not start"


@contextlib.contextmanager
def tf_servers(*jobs: str, hidden: Sequence[Path] = ()) -> Iterator[list[TfServer]]:
    """Start servers side by side, one task of each job; where `hidden` directories are, they have empty disks."""
    servers: list[TfServer] = []
    mounts = "".join(f"mount -t tmpfs -o mode=700 tmpfs {path} && " for path in hidden)
    apart = ["unshare", "--mount", "--propagation", "private", "bash", "-c", f'{mounts} exec "$@"', "server"]
    try:
        for job in jobs:
            process = subprocess.Popen(
                [*(apart if hidden else ()), sys.executable, "-c", _SERVE, job],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            servers.append(TfServer(process))
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.process.kill()
            server.process.communicate(timeout=10)
