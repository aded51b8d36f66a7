"""Hosts that differ by their network alone: an address and a link of their own, between which packets can be dropped.

Threads of this process move to a host with `enter`; what they open from then on, and the threads that they start,
belong to that host. Needs root, `ip`, `tc` and `nft`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_NET = "10.79.0"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """Why such hosts cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=10, check=False)
    return None if done.returncode == 0 else "needs network namespaces"


class NetHosts:
    """The hosts.

    Args:
        names: Their names.
        rate: Cap of each host's link, up and down, as `tc` writes it.
    """

    def __init__(self, names: tuple[str, ...], rate: str) -> None:
        self.addresses = {name: f"{_NET}.{number + 1}" for number, name in enumerate(names)}
        self._spaces = {name: f"hdt{number}" for number, name in enumerate(names)}
        self._rate = rate

    def enter(self, name: str) -> None:
        """Move the calling thread to a host."""
        with Path(f"/run/netns/{self._spaces[name]}").open() as file:
            if _LIBC.setns(file.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {name}")

    def inside(self, name: str) -> list[str]:
        """What to put in front of a command that is to run on a host."""
        return ["ip", "netns", "exec", self._spaces[name]]

    def drop(self, sender: str, receiver: str, match: str = "") -> None:
        """Drop packets that a host gets from another one.

        Args:
            sender: Who sends them.
            receiver: Who gets none of them.
            match: What else must be so, as nft writes it, such as `tcp dport 80`.
        """
        space = self._spaces[receiver]
        _do("ip", "netns", "exec", space, "nft", "add table ip t")
        _do("ip", "netns", "exec", space, "nft", "add chain ip t c { type filter hook input priority 0; }")
        rule = f"add rule ip t c ip saddr {self.addresses[sender]} {match} drop"
        _do("ip", "netns", "exec", space, "nft", rule)

    def unplug(self, name: str) -> None:
        """Take a host from the network: no packet reaches it or leaves it, and nobody is told."""
        _do("ip", "link", "set", f"hdtv{self._number(name)}", "nomaster")

    def _number(self, name: str) -> int:
        return list(self._spaces).index(name)

    def build(self) -> None:
        _do("ip", "link", "add", "hdtbr", "type", "bridge")
        _do("ip", "link", "set", "hdtbr", "up")
        for name, space in self._spaces.items():
            link = f"hdtv{self._number(name)}"
            _do("ip", "netns", "add", space)
            _do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _do("ip", "link", "set", link, "master", "hdtbr", "up")
            _do("ip", "-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
            _do("ip", "-n", space, "link", "set", "eth0", "up")
            _do("ip", "-n", space, "link", "set", "lo", "up")
            shaper = ["root", "tbf", "rate", self._rate, "burst", "128kb", "latency", "100ms"]
            _do("tc", "qdisc", "add", "dev", link, *shaper)
            _do("tc", "-n", space, "qdisc", "add", "dev", "eth0", *shaper)

    def close(self) -> None:
        """Remove everything."""
        for name, space in self._spaces.items():
            _do("ip", "link", "del", f"hdtv{self._number(name)}", check=False)
            _do("ip", "netns", "del", space, check=False)
        _do("ip", "link", "del", "hdtbr", check=False)


@contextlib.contextmanager
def net_hosts(*names: str, rate: str = "1gbit") -> Iterator[NetHosts]:
    """Hosts of these names, each with a link of this rate."""
    hosts = NetHosts(names, rate)
    hosts.close()  # what a killed run has left
    try:
        hosts.build()
        yield hosts
    finally:
        hosts.close()


def _do(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, timeout=30, stdout=subprocess.DEVNULL, stderr=None if check else -3)
