"""How a command ends: the exit code for each kind of error, and the hint that names the next command.

The codes are a promise to scripts. `docs/reference/commands.md` lists them.
"""

from __future__ import annotations

import enum

from hubdist.errors import (
    AccessDeniedError,
    ConfigError,
    DeliveryError,
    HandleError,
    HubdistError,
    IntegrityError,
    ModelNotFoundError,
    NotAModelError,
    NotPinnedError,
    StoreError,
    TransferError,
)


class Exit(enum.IntEnum):
    """The exit codes of all commands."""

    OK = 0
    """The command did what it was asked for."""
    FAILED = 1
    """It did not, for a reason that has no code of its own; or the answer to a question is no."""
    WRONG_USE = 2
    """An argument, a setting or a handle is wrong."""
    NOT_FOUND = 3
    """The origin or the store has nothing under this handle or digest."""
    NO_ACCESS = 4
    """The origin wants credentials, or other ones."""
    INTEGRITY = 5
    """Bytes are not those that were promised."""
    DISK = 6
    """A node's disk refuses or is full, or another user could change the store."""
    SOME_NODES = 7
    """Some nodes or handles failed; the others have what they were to get."""
    TRANSFER = 8
    """Bytes did not arrive in time; another try may help."""
    INTERRUPTED = 130
    """Somebody pressed Ctrl-C."""


_CODES: tuple[tuple[type[HubdistError], Exit], ...] = (
    (ConfigError, Exit.WRONG_USE),
    (HandleError, Exit.WRONG_USE),
    (NotAModelError, Exit.FAILED),
    (ModelNotFoundError, Exit.NOT_FOUND),
    (NotPinnedError, Exit.NOT_FOUND),
    (AccessDeniedError, Exit.NO_ACCESS),
    (IntegrityError, Exit.INTEGRITY),
    (StoreError, Exit.DISK),
    (DeliveryError, Exit.SOME_NODES),
    (TransferError, Exit.TRANSFER),
)
"""The first class that fits decides."""

_HINTS: tuple[tuple[type[HubdistError], str], ...] = (
    (ConfigError, "`hubdist config show` prints each setting and where its value comes from."),
    (HandleError, "`hubdist resolve --help` shows how handles are written."),
    (ModelNotFoundError, "`hubdist plan HANDLE` prints what is known of a handle without reading the origin."),
    (NotPinnedError, "`hubdist lock HANDLE` pins a model, where the origin can be reached."),
    (AccessDeniedError, "`hubdist doctor HANDLE` checks who may read the origin, and from which node."),
    (IntegrityError, "`hubdist verify --repair` checks and mends what is in the store."),
    (StoreError, "`hubdist doctor` checks the store's rights, space and speed on every node."),
    (DeliveryError, "Run the same command again: it fetches only what is missing. `hubdist doctor` checks the nodes."),
    (TransferError, "`hubdist doctor` checks the ways from every node to the origin and to each other."),
)


def exit_code(error: HubdistError) -> Exit:
    """The exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)


def hint(error: HubdistError) -> str | None:
    """The sentence that names the next command after an error; None if no command helps, or the advice says what to do.

    Of wrong use, the error's own advice says what to do; and an advice that names a command is enough.
    """
    if "`hubdist " in (error.advice or ""):
        return None
    if error.advice is not None and isinstance(error, (ConfigError, HandleError)):
        return None
    return next((text for kind, text in _HINTS if isinstance(error, kind)), None)
