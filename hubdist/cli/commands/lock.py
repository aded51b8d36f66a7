"""`hubdist lock`: which bytes each handle stands for, in a file for version control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubdist.cli.command import Command
from hubdist.cli.exits import Exit
from hubdist.cli.output import Output, Table
from hubdist.cli.session import address_option, load_settings, session, settings_options

if TYPE_CHECKING:
    from hubdist.client.lock_update import LockedHandle, LockTask
    from hubdist.config.schema import Config
    from hubdist.errors import HubdistError

_WITHOUT_PINS = ("models=[]", "lock_file=null", "frozen=false", "locked=false")
"""Settings under which hubdist tells what a handle stands for, whatever the lock file says."""

_GOOD = ("up to date", "not asked")
"""The states of handles that are not out of date."""


@click.command(
    cls=Command,
    examples=[
        "hubdist lock --config hubdist.yaml",
        "hubdist lock https://tfhub.dev/google/nnlm-en-dim50/2 gs://my-bucket/model",
        "hubdist lock --upgrade gs://my-bucket/model",
        "hubdist lock --check  # exit code 1: the file is out of date",
    ],
)
@click.argument("handles", nargs=-1, metavar="[HANDLE]...")
@click.option("--check", is_flag=True, help="Change nothing. Exit code 1 if the file is out of date.")
@click.option("--upgrade", is_flag=True, help="Ask the origins of pinned handles again: all, or those that are named.")
@click.option(
    "--lock-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file. By default that of the setting lock_file, else hubdist.lock.",
)
@click.pass_obj
@address_option
@settings_options
def lock(
    output: Output,
    handles: Sequence[str],
    *,
    check: bool,
    upgrade: bool,
    lock_file: Path | None,
    address: str,
    config: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Write into hubdist.lock which bytes each HANDLE stands for; without one, the handles of the setting `models`.

    Handles that the file has keep their pins, until --upgrade asks their origins for what they have now. The file is
    out of date if it lacks a handle, or if an origin has other bytes. It holds no secrets of handles.
    """
    from hubdist.client.lock_update import LockTask

    if check and upgrade:
        raise click.UsageError("--check changes nothing, and --upgrade does.")
    task = LockTask.CHECK if check else LockTask.UPGRADE if upgrade else LockTask.ADD
    found = load_settings(config, settings)
    path = lock_file or Path(found.lock_file or "hubdist.lock").expanduser()
    with session(address, config, (*settings, *_WITHOUT_PINS)):
        done, failures = _run(path, handles, found, task)
    if done:
        _show(output, path, done, [*failures])
    if failures:
        raise _error(failures, len(done))
    if check and not all(each.state in _GOOD for each in done):
        output.say(f"{path} is out of date.\nhint: `hubdist lock --upgrade` brings it up to date.")
        click.get_current_context().exit(Exit.FAILED)


def _run(
    path: Path, handles: Sequence[str], config: Config, task: LockTask
) -> tuple[list[LockedHandle], dict[str, HubdistError]]:
    from hubdist.client.current import current_process
    from hubdist.client.lock_update import LockUpdate
    from hubdist.model.handle import parse_handle
    from hubdist.store.lock_file import LockFile
    from hubdist.system.disk import working_directory

    texts = handles or [model.handle for model in config.models]
    file = LockFile(path, frozen=False)
    if not texts and not (task.name != "ADD" and file.models()):
        raise click.UsageError("There are no handles. Name some, or list them under `models` in the settings.")
    wanted = [parse_handle(text, base_dir=working_directory()) for text in texts]
    update = LockUpdate(current_process().backend, file, task)
    return update.run(wanted, config.model_settings(), whole=not handles), update.failures


def _show(output: Output, path: Path, done: Sequence[LockedHandle], failed: Sequence[str]) -> None:
    from hubdist.report.delivery import size_text

    rows = [
        (
            each.handle,
            "" if each.total_bytes is None else size_text(each.total_bytes),
            str(each.found or each.pinned or "")[:19],
            str(each.state),
        )
        for each in done
    ]
    record: dict[str, Any] = {
        "lock_file": str(path),
        "handles": [
            {
                "handle": each.handle,
                "state": str(each.state),
                "pinned": None if each.pinned is None else str(each.pinned),
                "found": None if each.found is None else str(each.found),
                "bytes": each.total_bytes,
            }
            for each in done
        ],
        "failed": list(failed),
    }
    values = [str(each.found or each.pinned or "") for each in done]
    output.give(Table(("HANDLE", "SIZE>", "DIGEST", "STATE"), rows), record, values)


def _error(failures: dict[str, HubdistError], done: int) -> HubdistError:
    from hubdist.errors import DeliveryError

    if len(failures) == 1 and not done:
        return next(iter(failures.values()))
    return DeliveryError(f"{len(failures)} of {len(failures) + done} handles failed:", failures=failures)
