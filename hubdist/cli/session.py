"""How a command finds its cluster and its settings: `--address`, `--config` and `--set`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hubdist.config.schema import Config

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

    with connected(address) as has_ray:
        try:
            hubdist.init(load_settings(config, settings, inherit=not has_ray))
            yield
        finally:
            hubdist.shutdown()


@contextlib.contextmanager
def connected(address: str, *, needed: bool = False) -> Iterator[bool]:
    """Connect to Ray for one command; at the end, disconnect.

    Args:
        address: `auto`, `local` or an address of Ray, as `--address`.
        needed: Raise an error if there is no Ray.

    Yields:
        True if there is a Ray.

    Raises:
        ConfigError: There is no Ray at the address; or there is none at all, and it is needed.
    """
    from hubdist.errors import ConfigError

    if address == "local":
        if needed:
            raise ConfigError("this command asks the nodes of a cluster, and --address local means none")
        yield False
        return
    from hubdist.cluster.ray_session import connect, disconnect, is_connected

    mine = connect(address)
    try:
        if needed and not is_connected():
            raise ConfigError(
                "no Ray runs on this machine, and RAY_ADDRESS is not set",
                advice="Give --address, or run the command on a node of the cluster.",
            )
        yield is_connected()
    finally:
        if mine:
            disconnect()


def read_settings(config: Path | None, settings: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that a command line gives.

    Args:
        config: A YAML file.
        settings: Settings that win, each as `key=value`; a value is read as YAML.

    Returns:
        Keys and values; and for each key where its value stands.

    Raises:
        ConfigError: The file cannot be read, or is no YAML; or a setting has no `=`.
    """
    from hubdist.config.sources import parse_yaml
    from hubdist.errors import ConfigError

    texts = [] if config is None else [(str(config), read_text(config))]
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {key} has no value", advice="Write it as --set key=value.")
        texts.append((f"--set {key}", f"{key}: {value}"))
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for where, text in texts:
        given = parse_yaml(text, where)
        values |= given
        places |= dict.fromkeys(given, where)
    return values, places


def load_settings(config: Path | None, settings: tuple[str, ...], *, inherit: bool = True) -> Config:
    """The settings of a command: those of the command line, the environment, and the defaults.

    Args:
        config: A YAML file.
        settings: Settings that win, each as `key=value`.
        inherit: As for `Config.load`.

    Raises:
        ConfigError: A setting is wrong, or the file cannot be read.
    """
    from hubdist.config.schema import Config

    values, places = read_settings(config, settings)
    return Config.load(values, inherit=inherit, places=places)


def read_text(file: Path) -> str:
    """The text of a file of settings.

    Raises:
        ConfigError: The file cannot be read.
    """
    from hubdist.errors import ConfigError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"{file} cannot be read: {reason}") from None


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
