"""Finds out whether Ray answers at an address and lets this process in, and if not, why.

Ray itself waits for minutes at a port where nobody listens, and for twenty seconds with a wrong token; it prints the
reason, and raises an error that says something else. So another process tries first: what it prints can be read, and it
can be ended.
"""

from __future__ import annotations

import enum
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass

from hubdist.config.variables import RayAccess
from hubdist.health.finding import Finding, Level
from hubdist.model.redact import redact_url

_TRY_S = 20.0
_END_S = 5.0
_TRY = """
import os, socket, sys
import ray
import ray.exceptions
from ray._private import services

asked = sys.argv[1]
if asked == "auto":
    asked = os.environ.get("RAY_ADDRESS") or asked
try:
    address = asked if asked.startswith("ray://") else services.canonicalize_bootstrap_address(asked)
except (ConnectionError, ValueError):
    address = None
if address is None:
    print("@none" if asked == "auto" else "@closed this is no address of Ray", flush=True)
    sys.exit()
print("@at", address, flush=True)
host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
except (OSError, ValueError) as error:
    print("@closed", error, flush=True)
    sys.exit()
try:
    ray.init(address=asked, log_to_driver=False, configure_logging=False)
except ray.exceptions.AuthenticationError:
    print("@no-token", flush=True)
except (ConnectionError, RuntimeError, ValueError) as error:
    print("@refused", (str(error).strip().splitlines() or [type(error).__name__])[0], flush=True)
else:
    print("@connected", flush=True)
"""


class ConnectionStatus(enum.StrEnum):
    """What a process found at an address of Ray."""

    CONNECTED = "connected"
    NONE = "none"
    """There is no Ray on this machine, and no address was given."""
    CLOSED = "closed"
    """Nobody listens at the address, or it cannot be reached."""
    WRONG_TOKEN = "wrong token"  # noqa: S105 - no password
    """The cluster wants a token, and got none or another one."""
    NO_TOKEN = "no token"  # noqa: S105 - no password
    """This process is to send a token, and has none."""
    REFUSED = "refused"
    """Ray's reason is another one, such as another version."""
    SILENT = "silent"
    """Somebody listens, and Ray does not answer in time."""


@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """What came of a try to connect.

    Attributes:
        status: What was found.
        address: Where; "" if no address is known.
        words: Ray's own reason; "" if there is none.
    """

    status: ConnectionStatus
    address: str = ""
    words: str = ""


def try_ray(address: str, *, timeout_s: float = _TRY_S) -> ConnectionResult:
    """Let another process try to connect to Ray.

    Args:
        address: As for `connect`.
        timeout_s: Longest wait in seconds.
    """
    command = [sys.executable, "-c", _TRY, address]
    process = subprocess.Popen(  # noqa: S603 - this Python, and a text of this module
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        return judge_output(_read(process, timeout_s), ended=process.poll() is not None)
    finally:
        process.kill()
        process.wait(_END_S)
        if process.stdout is not None:
            process.stdout.close()


def judge_output(said: str, *, ended: bool) -> ConnectionResult:
    """What the output of the process that tried means.

    Args:
        said: What it has printed, Ray's own lines among them.
        ended: False if it was still trying.
    """
    told = dict(line[1:].partition(" ")[::2] for line in said.splitlines() if line.startswith("@"))
    at = told.get("at", "")
    for mark, state in (
        ("connected", ConnectionStatus.CONNECTED),
        ("none", ConnectionStatus.NONE),
        ("closed", ConnectionStatus.CLOSED),
        ("no-token", ConnectionStatus.NO_TOKEN),
    ):
        if mark in told:
            return ConnectionResult(state, at, told[mark])
    if says_unauthenticated(said):
        return ConnectionResult(ConnectionStatus.WRONG_TOKEN, at)
    if "refused" in told:
        return ConnectionResult(ConnectionStatus.REFUSED, at, told["refused"])
    last = said.strip().splitlines()[-1] if ended and said.strip() else ""
    return ConnectionResult(ConnectionStatus.REFUSED if ended else ConnectionStatus.SILENT, at, last)


def _read(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """What the process prints until it ends, has connected, or Ray has said that the token is wrong."""
    assert process.stdout is not None
    deadline, said = time.monotonic() + timeout_s, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            part = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]  # a buffered reader
            said += part
            text = said.decode(errors="replace")
            if not part:
                process.wait(_END_S)
                break
            if "@connected" in text or says_unauthenticated(text) or time.monotonic() > deadline:
                break
    return said.decode(errors="replace")


def says_unauthenticated(text: str) -> bool:
    """True if what Ray prints says that the cluster refuses a token; Ray's own error says something else."""
    return "InvalidAuthToken" in text or "UNAUTHENTICATED" in text or "Unauthenticated:" in text


def judge_ray(tried: ConnectionResult, access: RayAccess) -> Finding:
    """Judge what came of a try to connect.

    Args:
        tried: What came of it.
        access: How processes started here find Ray and show that they may use it.
    """
    at = f"Ray at {redact_url(tried.address)}" if tried.address else "Ray"
    token = f"a token from {access.token_from}" if access.token_from else "no token"
    sent = f"{token}, with RAY_AUTH_MODE={access.mode}" if access.mode else f"{token}, and RAY_AUTH_MODE is not set"
    give = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to what the cluster was started with."
    known: dict[ConnectionStatus, tuple[Level, str, str | None]] = {
        ConnectionStatus.CONNECTED: (Level.OK, f"{at} answers ({sent})", None),
        ConnectionStatus.NONE: (Level.OK, "no Ray runs on this machine: this process alone is checked", None),
        ConnectionStatus.CLOSED: (
            Level.FAIL,
            f"{at} is not reached: {tried.words}",
            "Is Ray started there (`ray status`), is RAY_ADDRESS or --address right, and is the port open?",
        ),
        ConnectionStatus.WRONG_TOKEN: (Level.FAIL, f"{at} refuses this process, which sends {sent}", give),
        ConnectionStatus.NO_TOKEN: (Level.FAIL, "this process is to send a token, and finds none", give),
        ConnectionStatus.SILENT: (
            Level.FAIL,
            f"{at} accepts connections and does not answer",
            "Is it the port of Ray's head (6379; 10001 for ray://)? Through ray://, a wrong token looks the same.",
        ),
        ConnectionStatus.REFUSED: (
            Level.FAIL,
            f"{at} refuses this process: {tried.words}",
            "Use the same ray and Python here as in the cluster; `ray --version` shows them.",
        ),
    }
    level, found, mend = known[tried.status]
    if level is Level.FAIL:
        found += "; the rest is checked without Ray"
    return Finding("ray", level, "", found, mend)
