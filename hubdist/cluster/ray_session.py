"""Connects a command of `hubdist` to Ray, without Ray's own output."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator

from hubdist.cluster.ray_access import says_unauthenticated
from hubdist.errors import ConfigError

_PORT_S = 5.0

_ADVICE = (
    "Set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."
)

_NO_RAY = "Could not find any running Ray instance"
"""How Ray says that `auto` has found none; it has no error of its own for that. Source: ray 2.60, services.py."""


def connect(address: str) -> bool:
    """Connect this process to a cluster as a driver.

    Args:
        address: An address of Ray, with `ray://` for a Ray Client; `auto` means that in `RAY_ADDRESS`, else the Ray
            that runs on this machine, else none.

    Returns:
        True if the process was connected; False if it was already, or there is no Ray and `auto` was asked for.

    Raises:
        ConfigError: There is no Ray at the address, or it refuses this process.
    """
    import ray
    import ray.exceptions

    if ray.is_initialized():
        return False
    with _captured_stderr() as said:
        _check_port(address)
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            if _NO_RAY in str(error):
                if address == "auto":
                    return False
                raise ConfigError(f"no Ray runs at {address}", advice="`--address local` works without Ray.") from error
            if says_unauthenticated(said()):
                raise ConfigError(f"{_first_line(error)}: it refuses this process's token", advice=_ADVICE) from error
            raise ConfigError(
                _first_line(error),
                advice="Is the address right, and can this machine reach it? `--address local` works without Ray.",
            ) from error
        except ray.exceptions.AuthenticationError as error:
            raise ConfigError("this process is to send Ray a token, and finds none", advice=_ADVICE) from error
        except RuntimeError as error:  # ray's way to say that its version is another one
            raise ConfigError(
                f"Ray refuses this process: {' '.join(str(error).split())}",
                advice="Run the command with the Ray and the Python of the cluster, or without Ray: `--address local`.",
            ) from error
    return True


def _check_port(address: str) -> None:
    """Raise an error if nobody listens where Ray is said to be: Ray itself would wait there for minutes."""
    from ray._private import services  # the only way to learn what `auto` means, RAY_ADDRESS included

    host_and_port: str | None = address.removeprefix("ray://").partition("/")[0]
    if not address.startswith("ray://"):
        try:
            host_and_port = services.canonicalize_bootstrap_address(address)
        except (ConnectionError, ValueError):
            return  # `ray.init` says it better
    host, _, port = (host_and_port or "").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PORT_S).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray answers at {host_and_port}: {error.strerror or type(error).__name__}",
            advice="Is the address right, and can this machine reach it? `--address local` works without Ray.",
        ) from error


def is_connected() -> bool:
    """True if this process is connected to a cluster."""
    import ray

    return bool(ray.is_initialized())


def disconnect() -> None:
    """End this process's connection to Ray."""
    import ray

    ray.shutdown()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what this process and Ray's own code, which is no Python, write to standard error.

    Yields:
        Returns what was written so far.
    """
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            yield lambda: os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace")
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
