"""Simulated hosts on one Linux machine, each with an address, a disk, shared memory and a capped link of its own.

    with Hosts(8, "100mbit") as hosts:          # h0 to h8 on one switch; h0 plays the driver
        hosts.start_ray(python="/path/to/python")
        hosts.run(0, [python, "script.py"])

What each host has to itself: a network namespace with one address, and fresh tmpfs mounts over /dev/shm, /tmp/ray and
/hostlocal. Everything else of the file system is shared. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_NET = "10.78.0"
_BRIDGE = "hdbr0"
_PLACES = ("/dev/shm", "/tmp/ray", "/hostlocal")
_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "NO_GCE_CHECK": "true", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


class Hosts:
    """Makes hosts and removes them, with every process on them, when the block is left.

    Args:
        count: Hosts beside h0.
        rate: Of each link in both directions, as `tc` writes it; one for each host, h0 first; None for no cap.
        disk: A directory of this machine whose subdirectories are the hosts' /hostlocal; None for memory.
    """

    def __init__(self, count: int, rate: str | Sequence[str] | None, disk: Path | None = None) -> None:
        needed = [tool for tool in ("ip", "tc", "nsenter", "unshare", "mount") if shutil.which(tool) is None]
        if os.geteuid() != 0 or needed:
            sys.exit(f"this benchmark builds simulated hosts: it needs root, iproute2 and util-linux {needed or ''}")
        self.count = count
        self._rates = [rate] * (count + 1) if rate is None or isinstance(rate, str) else list(rate)
        self._disk = disk
        self._holders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._claim()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def address(host: int) -> str:
        """The address of a host."""
        return f"{_NET}.{host + 1}"

    def command(self, host: int, command: list[str]) -> list[str]:
        """A command as it is run on a host."""
        return ["nsenter", "--target", str(self._holders[host].pid), "--net", "--mount", "--", *command]

    def run(self, host: int, command: list[str], *, timeout_s: float = 3600, **environment: str) -> str:
        """Run a command on a host; its output. Where it fails, what it had to say ends the benchmark."""
        done = subprocess.run(
            self.command(host, command),
            env={**os.environ, **_ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        return done.stdout

    def start_ray(self, *, head_bytes: int = 800_000_000, node_bytes: int = 500_000_000, **environment: str) -> None:
        """Start a head on h0 and a raylet on each other host, one after another; host I offers the resource `hI`."""
        ray = str(Path(sys.executable).with_name("ray"))
        begin = [ray, "start", "--disable-usage-stats"]
        head = ["--head", f"--node-ip-address={self.address(0)}", "--port=6379", "--include-dashboard=false"]
        self._quietly(0, [*begin, *head, "--num-cpus=2", f"--object-store-memory={head_bytes}"], environment)
        for host in range(1, self.count + 1):
            place = [f"--address={self.address(0)}:6379", f"--node-ip-address={self.address(host)}", "--num-cpus=1"]
            offer = [f"--object-store-memory={node_bytes}", f'--resources={{"h{host}": 100}}']
            self._quietly(host, [*begin, *place, *offer], environment)

    def stop_processes(self, host: int) -> None:
        """Kill every process of a host but the one that holds it."""
        found = subprocess.run(["ip", "netns", "pids", f"hd{host}"], stdout=subprocess.PIPE, check=False, text=True)
        for pid in map(int, found.stdout.split()):
            if pid != self._holders[host].pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End and remove everything."""
        for host in range(len(self._holders)):
            self.stop_processes(host)
        for holder in self._holders:
            holder.kill()
            holder.wait(timeout=10)
        for host in range(self.count + 1):
            self._do("ip", "link", "del", f"hdv{host}", check=False)
            self._do("ip", "netns", "del", f"hd{host}", check=False)
        self._do("ip", "link", "del", _BRIDGE, check=False)

    @staticmethod
    def _claim() -> None:
        """Make the switch, which only one benchmark at a time can; what another one has made is left alone."""
        made = subprocess.run(["ip", "link", "add", _BRIDGE, "type", "bridge"], capture_output=True, check=False)
        if made.returncode != 0:
            why = made.stderr.decode(errors="replace").strip()
            sys.exit(f"there is a switch {_BRIDGE} already, or none can be made: another benchmark may run ({why})")

    def _build(self) -> None:
        for place in _PLACES:
            Path(place).mkdir(parents=True, exist_ok=True)
        self._do("ip", "link", "set", _BRIDGE, "up")
        for host in range(self.count + 1):
            space, link = f"hd{host}", f"hdv{host}"
            self._do("ip", "netns", "add", space)
            self._do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            self._do("ip", "link", "set", link, "master", _BRIDGE, "up")
            self._do("ip", "-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            self._do("ip", "-n", space, "link", "set", "eth0", "up")
            self._do("ip", "-n", space, "link", "set", "lo", "up")
            rate = self._rates[host]
            if rate:  # a shaper at each end: what the host receives, and what it sends
                # A bucket of less than a millisecond's bytes would cap fast links below their rate.
                burst = "1280kb" if rate.endswith("0gbit") else "128kb"
                shaper = ["root", "tbf", "rate", rate, "burst", burst, "latency", "100ms"]
                self._do("tc", "qdisc", "add", "dev", link, *shaper)
                self._do("tc", "-n", space, "qdisc", "add", "dev", "eth0", *shaper)
            self._holders.append(self._hold(host, space))
        time.sleep(1.0)

    def _hold(self, host: int, space: str) -> subprocess.Popen[bytes]:
        """A process that keeps the host's mounts."""
        mounts = [f"mount -t tmpfs tmpfs {place}" for place in _PLACES]
        if self._disk is not None:
            own = self._disk / f"h{host}"
            own.mkdir(parents=True, exist_ok=True)
            mounts[-1] = f"mount --bind {own} /hostlocal"
        script = " && ".join([*mounts, "exec sleep infinity"])
        enter = ["ip", "netns", "exec", space, "unshare", "--mount", "--propagation", "private", "bash", "-c", script]
        return subprocess.Popen(enter, stdin=subprocess.DEVNULL)

    def _quietly(self, host: int, command: list[str], environment: dict[str, str]) -> None:
        with tempfile.TemporaryFile() as output:  # not a pipe: what the command starts keeps it open
            done = subprocess.run(
                self.command(host, command),
                env={**os.environ, **_ENVIRONMENT, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=180,
                check=False,
            )
            if done.returncode != 0:
                output.seek(0)
                said = output.read().decode(errors="replace")[-4000:]
                sys.exit(f"{' '.join(command)} on host {host} ended with {done.returncode}:\n{said}")

    @staticmethod
    def _do(*command: str, check: bool = True) -> None:
        subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL)
