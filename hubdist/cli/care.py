"""What the commands that care for models on disk share: `--where`, the place that it names, and how results look."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hubdist.cli.output import Table
from hubdist.cli.session import address_option, load_settings, settings_options

if TYPE_CHECKING:
    from hubdist.care.collection import Removal
    from hubdist.care.place import Answers, CarePlace
    from hubdist.care.repair import BlockSource
    from hubdist.model.manifest import Digest

_F = TypeVar("_F", bound=Callable[..., Any])


@contextlib.contextmanager
def place(where: str, address: str, config: Path | None, settings: tuple[str, ...]) -> Iterator[CarePlace]:
    """Open what `--where` names, for one command.

    Args:
        where: `node`, `all` or `shared`.
        address: Ray's address, as `--address`; `node` needs it for a repair, or if the store's path has the node's id.
        config: A YAML file with settings; None takes `HUBDIST_CONFIG`.
        settings: Settings that win, each as `key=value`.

    Raises:
        ConfigError: A setting is wrong, or there is no such place.
        StoreError: The store cannot be used.
    """
    from hubdist.client.care import open_care
    from hubdist.errors import ConfigError

    values = load_settings(config, settings)
    with contextlib.ExitStack() as opened:

        def joined() -> bool:
            if address == "local":
                return False
            from hubdist.cluster.ray_session import connect, disconnect, is_connected

            if connect(address):
                opened.callback(disconnect)
            return is_connected()

        def peers(closing: contextlib.ExitStack) -> Sequence[BlockSource]:
            if not joined():
                return ()
            from hubdist.cluster.care import peers_of_this_node

            return peers_of_this_node(values, closing)

        if where == "all" and not joined():
            raise ConfigError(
                "--where all needs a cluster, and no Ray answers",
                advice="Give its --address, or run the command on a node of it.",
            )
        node_id = None
        if where == "node" and "{node_id}" in values.store and joined():
            from hubdist.cluster.care import own_node_id

            node_id = own_node_id()
        yield opened.enter_context(open_care(where, values, node_id=node_id, peers=peers))


def place_options(command: _F) -> _F:
    """Give a command `--where`, `--address`, `--config` and `--set`; its first argument is the `CarePlace`."""

    @click.option(
        "--where",
        type=click.Choice(["node", "all", "shared"]),
        default="node",
        show_default=True,
        help="node: this node's store, without Ray. all: the stores of all nodes. shared: the shared cache.",
    )
    @address_option
    @settings_options
    @functools.wraps(command)
    def run(*args: Any, where: str, address: str, config: Path | None, settings: tuple[str, ...], **kwargs: Any) -> Any:
        with place(where, address, config, settings) as opened:
            return command(*args, opened, **kwargs)

    return run  # type: ignore[return-value]  # a function with four more options


def raise_failures(answers: Answers[Any]) -> None:
    """Raise an error that names each store that failed; none failed: do nothing.

    Raises:
        DeliveryError: Some stores failed.
        StoreError: The only store failed.
    """
    if answers.failures:
        from hubdist.client.care import failed

        raise failed(answers)


def short(digest: Digest) -> str:
    """A digest as tables show it: enough digits to name it."""
    return f"sha256:{digest.value[:12]}"


def named(handles: Sequence[str]) -> str:
    """The handles of a model as tables show them."""
    return ", ".join(handles) or "-"


def removal_table(answers: Answers[list[Removal]], done: str) -> Table:
    """A table of models that went, or have to stay.

    Args:
        answers: What each store did.
        done: What the table says of a model that went.
    """
    from hubdist.report.delivery import size_text

    several = len(answers.by_store) > 1
    rows = [
        [
            *([name] if several else []),
            short(removal.digest),
            size_text(removal.size),
            removal.why if removal.why and removal.removed else done if removal.removed else f"stays: {removal.why}",
            named(removal.handles),
        ]
        for name, removals in answers.by_store.items()
        for removal in removals
    ]
    return Table([*(["NODE"] if several else []), "DIGEST", "SIZE>", "RESULT", "HANDLE"], rows)


def records(answers: Answers[list[Any]]) -> list[dict[str, Any]]:
    """The records of all answers for JSON, each with the name of its store."""
    return [{"store": name, **each.record()} for name, several in answers.by_store.items() for each in several]
