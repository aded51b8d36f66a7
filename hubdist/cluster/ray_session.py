"""Connects a command of `hubdist` to Ray, without Ray's own output."""

from __future__ import annotations

import logging

from hubdist.errors import ConfigError


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

    if ray.is_initialized():
        return False
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        if address == "auto":
            return False
        raise ConfigError(
            f"no Ray answers at {address}: {_first_line(error)}", advice="`--address local` works without Ray."
        ) from error
    except RuntimeError as error:  # ray's way to say that its version or its token is another one
        raise ConfigError(f"Ray at {address} refuses this process: {_first_line(error)}") from error
    return True


def is_connected() -> bool:
    """True if this process is connected to a cluster."""
    import ray

    return bool(ray.is_initialized())


def disconnect() -> None:
    """End this process's connection to Ray."""
    import ray

    ray.shutdown()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
