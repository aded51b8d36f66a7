"""A head node as `ray start --head` makes it, with dashboard and Ray Client, for tests that need more than a driver.

    with ray_head(tmp_path) as head:
        subprocess.run([*RAY, "job", "submit", "--address", head.dashboard_url, ...], env=head.environment)

It is ended by the ids of its own processes, for `ray stop` would end every Ray process of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ray.util

RAY = (sys.executable, "-m", "ray.scripts.scripts")
"""The `ray` command of this interpreter."""

_START_S = 120.0
_STOP_S = 60.0
_LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Head:
    """A running head node.

    Attributes:
        address: For `ray start --address` and `ray.init` of processes on this machine.
        dashboard_url: For `ray job submit`.
        client_url: For Ray Client: `ray.init(client_url)`.
        environment: What its processes were started with; give it to commands that talk to it.
        logs: The directory of its log files.
        pid: Of `ray start`.
    """

    address: str
    dashboard_url: str
    client_url: str
    environment: Mapping[str, str]
    logs: Path
    pid: int


@contextlib.contextmanager
def ray_head(
    folder: Path,
    *,
    cpus: int = 2,
    object_store_bytes: int = 100_000_000,
    resources: Mapping[str, float] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Head]:
    """Start a head node on free ports; when the block is left, end it and check that nothing of it lives on.

    Args:
        folder: Gets `cache`, where hubdist's stores go by default.
        cpus: Number of CPUs that it offers.
        object_store_bytes: Size of its object store; Ray takes at least 75 MiB.
        resources: Custom resources that it offers.
        environment: Variables on top of this process's.

    Raises:
        RuntimeError: It did not start.
        AssertionError: Processes were left and had to be killed.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    variables |= {"RAY_AUTH_MODE": "disabled", "XDG_CACHE_HOME": str(folder / "cache"), **(environment or {})}
    variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # nobody else waits for its work
    # Ray Client's proxy forks while gRPC's threads run; with gRPC's fork handlers the child dies now and then, with
    # "ev_epoll1_linux.cc: Check failed: next_worker->state == KICKED". It calls exec at once and needs no handlers.
    variables["GRPC_ENABLE_FORK_SUPPORT"] = "false"
    # Jobs say `python` and mean this one.
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    # Not in `folder`: the paths of Ray's sockets may have 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="rh-"))
    command = [*RAY, "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={root}"]
    command += [f"--dashboard-host={_LOCAL}", "--include-dashboard=true"]
    command += [f"--num-cpus={cpus}", f"--object-store-memory={object_store_bytes}"]
    command += [f"--resources={json.dumps(dict(resources or {}))}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", *(f"--{name}={port}" for name, port in ports.items())]
    process = subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_until_started(process)
        yield Head(
            address=f"{ray.util.get_node_ip_address()}:{ports['port']}",
            dashboard_url=f"http://{_LOCAL}:{ports['dashboard-port']}",
            client_url=f"ray://{_LOCAL}:{ports['ray-client-server-port']}",
            environment=variables,
            logs=root / "session_latest" / "logs",
            pid=process.pid,
        )
    finally:
        try:
            left = end_family(process)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    assert not left, f"processes of the head that had to be killed: {left}"


@contextlib.contextmanager
def ray_worker(head: Head, folder: Path, *, resources: Mapping[str, float], labels: str) -> Iterator[None]:
    """Start a second node on this machine, with a store of its own; it is ended with the block.

    Args:
        head: A head node; keep it for longer than the block.
        folder: Gets `cache`, where hubdist's store of this node goes by default.
        resources: Custom resources that it offers.
        labels: Its labels, as `ray start --labels` takes them.

    Raises:
        RuntimeError: It did not start.
    """
    variables = {**head.environment, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [*RAY, "start", f"--address={head.address}", "--block", "--disable-usage-stats", "--num-cpus=2"]
    command += ["--object-store-memory=100000000", f"--resources={json.dumps(dict(resources))}", f"--labels={labels}"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
    command += [f"--{name}={port}" for name, port in zip(ports, _free_ports(len(ports)), strict=True)]
    process = subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_until_started(process)
        yield
    finally:
        end_family(process)


_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "ray-client-server-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:  # all are held until the last is found, so that they differ
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_started(process: subprocess.Popen[bytes]) -> None:
    """Ray says so when the dashboard answers, and waits for ever then."""
    assert process.stdout is not None
    deadline = time.monotonic() + _START_S
    said = b""
    while b"--block" not in said:
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(process.stdout.fileno(), 1 << 16) if readable else b""
        if not part:
            raise RuntimeError(f"no head node within {_START_S:g} s; ray start said:\n{said.decode(errors='replace')}")
        said += part


def end_family(process: subprocess.Popen[bytes]) -> list[str]:
    """End a session leader and everything that it started.

    Returns:
        What did not end within a minute of the signal to the leader and was killed.
    """
    family = {pid: os.pidfd_open(pid) for pid in [process.pid] if process.poll() is None}
    try:
        _join_family(family, process.pid)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while (alive := _alive(family)) and time.monotonic() < deadline:
            select.select(list(alive.values()), [], [], 0.5)  # readable as soon as one has ended
            _join_family(family, process.pid)
        left = [f"{pid} {_command(pid)}" for pid in alive]
        for handle in alive.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        process.wait(timeout=_STOP_S)
    finally:
        for handle in family.values():
            os.close(handle)
        if process.stdout is not None:
            process.stdout.close()
    return left


def _join_family(family: dict[int, int], session: int) -> None:
    """Add the processes of the session, and children of those who are in: jobs' drivers have sessions of their own."""
    while True:
        joined = False
        for pid, (parent, its_session) in _processes().items():
            if pid not in family and (its_session == session or (parent in family and parent != os.getpid())):
                with contextlib.suppress(ProcessLookupError):
                    family[pid] = os.pidfd_open(pid)
                    joined = True
        if not joined:
            return


def _alive(family: Mapping[int, int]) -> dict[int, int]:
    ended, _, _ = select.select(list(family.values()), [], [], 0)
    return {pid: handle for pid, handle in family.items() if handle not in ended}


def _processes() -> dict[int, tuple[int, int]]:
    """Process id -> parent's id and session of every process that has not ended."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if state != "Z":
                    found[int(folder.name)] = (int(parent), int(session))
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    return "?"
