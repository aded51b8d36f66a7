"""How a command finds its cluster and its settings: `--address`, `--config` and `--set`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


@contextlib.contextmanager
def session(address: str, config: Path | None, settings: tuple[str, ...]) -> Iterator[None]:
    """Connect to Ray and set hubdist up for one command; at the end, end both.

    Args:
        address: `auto`, `local` or an address of Ray, as `--address`.
        config: A YAML file with settings; None takes `HUBDIST_CONFIG`.
        settings: Settings that win, each as `key=value`.

    Raises:
        ConfigError: A setting is wrong, or there is no Ray at the address.
    """
    import hubdist

    values = read_settings(config, settings)
    if address != "local":
        from hubdist.cluster.ray_session import connect, disconnect

        connected = connect(address)
    else:
        connected = False
    try:
        hubdist.init(values)
        yield
    finally:
        hubdist.shutdown()
        if connected:
            disconnect()


def read_settings(config: Path | None, settings: tuple[str, ...]) -> dict[str, Any]:
    """The settings that a command line gives.

    Args:
        config: A YAML file.
        settings: Settings that win, each as `key=value`; a value is read as YAML.

    Raises:
        ConfigError: The file cannot be read, or is no YAML; or a setting has no `=`.
    """
    from hubdist.config.sources import parse_yaml
    from hubdist.errors import ConfigError

    values: dict[str, Any] = {}
    if config is not None:
        try:
            text = config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ConfigError(f"{config} cannot be read: {reason}") from None
        values = parse_yaml(text, str(config))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {key} has no value", advice="Write it as --set key=value.")
        values |= parse_yaml(f"{key}: {value}", f"--set {key}")
    return values


def address_option(command: _F) -> _F:
    """Give a command `--address`."""
    return click.option(
        "--address",
        default="auto",
        show_default=True,
        metavar="ADDRESS",
        help="Ray's address. auto: that in RAY_ADDRESS, else the Ray of this machine, else none. local: without Ray.",
    )(command)


def settings_options(command: _F) -> _F:
    """Give a command `--config` and `--set`."""
    file = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML with settings; wins over HUBDIST_CONFIG.",
    )
    single = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; may be repeated.")
    return file(single(command))


def session_options(command: _F) -> _F:
    """Give a command `--address`, `--config` and `--set`, and run it in a `session`."""

    @address_option
    @settings_options
    @functools.wraps(command)
    def run(*args: Any, address: str, config: Path | None, settings: tuple[str, ...], **kwargs: Any) -> Any:
        with session(address, config, settings):
            return command(*args, **kwargs)

    return run  # type: ignore[return-value]  # a function with three more options
