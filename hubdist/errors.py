"""Every error that hubdist raises on purpose, by what the caller can do about it.

    HubdistError
    |- ConfigError                        fix the configuration
    |- HandleError                        fix the handle
    |- NotAModelError                     the files are there, but are not one SavedModel
    |- MissingOperationError              import the package that registers the model's operations
    |- TravelError                        a changed model that cannot be pickled or copied whole
    |- SignatureError                     give the model what its signature takes
    |- ResolveError                       the origin says no
    |  |- ModelNotFoundError
    |  |- AccessDeniedError
    |  '- NotPinnedError                  frozen, locked or offline, and no pin
    |- TransferError                      may be tried again, elsewhere
    |  |- OriginError
    |  |- PeerError                       a node failed to hand on a chunk
    |  |  |- NodeLostError                the node, or the agent on it, is gone
    |  |  |- SenderLostError              the node that should send is gone
    |  |  |- PortClosedError              its port cannot be reached
    |  |  '- UnknownDeliveryError         it takes no part in the delivery, or not yet
    |  '- TransferTimeoutError
    |- IntegrityError                     wrong bytes, never accepted
    |  |- LengthMismatchError
    |  |- DigestMismatchError
    |  '- UnsafeArchiveError
    |- StoreError                         this node's disk
    |  |- StoreFullError
    |  '- UnsafeStoreError
    '- DeliveryError                      some nodes failed: node -> error

Where Python has an error for the same thing, the error is also one of those, so that code which knows nothing of
hubdist handles it well:

- ConfigError, HandleError, NotAModelError and SignatureError are `ValueError`s;
- ModelNotFoundError is a `FileNotFoundError`, AccessDeniedError a `PermissionError`;
- TransferTimeoutError is a `TimeoutError`;
- StoreError is an `OSError`, with the `errno` of the disk's error where there was one.

An error names what happened, the handle, the node and what to do. All of them pickle with their fields, so they reach
the calling process from any node unchanged.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Mapping
from typing import Any, Self


class HubdistError(Exception):
    """Base of all errors that hubdist raises on purpose.

    Attributes:
        what: What happened, one sentence without a final full stop.
        handle: The handle it happened to, secrets removed; None if no single handle is concerned.
        node: Name of the node it happened on; None if it happened in the calling process.
        advice: What the caller can do, or None.
    """

    def __init__(
        self, what: str, *, handle: str | None = None, node: str | None = None, advice: str | None = None
    ) -> None:
        super().__init__(what)  # of Exception, or of Python's error that the subclass is too
        self.what = what
        self.handle = handle
        self.node = node
        self.advice = advice

    def __str__(self) -> str:
        """The whole message: what, handle, node, advice."""
        text = self.what
        if self.handle is not None and self.handle not in text:
            text += f"; handle {self.handle}"
        if self.node is not None:
            text += f"; on node {self.node}"
        if self.advice is not None:
            text += f". {self.advice}"
        return text

    def with_context(self, *, handle: str | None = None, node: str | None = None) -> Self:
        """A copy of this error with handle and node filled in where they are still unknown.

        Args:
            handle: The handle that it happened to, secrets removed.
            node: The name of the node that it happened on.
        """
        with_context = copy.copy(self)
        with_context.handle = self.handle if self.handle is not None else handle
        with_context.node = self.node if self.node is not None else node
        return with_context

    def without_advice(self) -> Self:
        """A copy of this error that does not say what to do."""
        bare = copy.copy(self)
        bare.advice = None
        return bare

    def advised(self, further: str) -> Self:
        """A copy of this error with a further sentence of advice."""
        advised = copy.copy(self)
        advised.advice = further if self.advice is None else f"{self.advice} {further}"
        return advised

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by fields, so that subclasses may have any signature. `errno` and its kin are not in `__dict__`."""
        system = {name: getattr(self, name) for name in _SYSTEM_FIELDS} if isinstance(self, OSError) else {}
        return _rebuild, (type(self), self.args, self.__dict__ | system)


_SYSTEM_FIELDS = ("errno", "strerror", "filename")


def _rebuild(kind: type[HubdistError], args: tuple[Any, ...], fields: dict[str, Any]) -> HubdistError:
    error = kind.__new__(kind, *args)
    error.args = args
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def _set_errno(error: OSError, number: int | None) -> None:
    """Set `errno` and the system's text for it."""
    error.errno = number
    error.strerror = None if number is None else os.strerror(number)


class ConfigError(HubdistError, ValueError):
    """A configuration value is unknown, of the wrong type or out of range.

    What to do: Correct the setting that the text names.
    """


class HandleError(HubdistError, ValueError):
    """The handle cannot be understood, or its kind is not allowed or not installed.

    What to do: Correct the handle, or install what the text names.
    """


class NotAModelError(HubdistError, ValueError):
    """The files are not a SavedModel or TF1 hub module, or are several versions of one: they cannot be loaded.

    What to do: Use `resolve` for their directory; of several versions, name one.
    """


class MissingOperationError(HubdistError):
    """The model uses an operation that no package has registered in this process.

    What to do: Import the package in the process, or name it under `imports`.

    Attributes:
        operation: The operation's name.
    """

    def __init__(self, what: str, *, operation: str, **context: str | None) -> None:
        super().__init__(what, **context)
        self.operation = operation


class TravelError(HubdistError):
    """A loaded model was changed in a way that a pickle or a copy of it cannot reproduce.

    What to do: Send values, or save the model and load that.
    """


class SignatureError(HubdistError, ValueError):
    """What a model is given or asked for does not fit its signature: a name, a type, a shape or a value.

    What to do: Change the column or input that the text names, or choose another signature.
    """


class ResolveError(HubdistError):
    """The origin was reached and says no."""


class ModelNotFoundError(ResolveError, FileNotFoundError):
    """The origin has nothing under this handle. `filename` is the handle.

    What to do: Check the handle.
    """

    def __init__(self, what: str, *, handle: str | None = None, **context: str | None) -> None:
        super().__init__(what, handle=handle, **context)
        _set_errno(self, errno.ENOENT)
        self.filename = handle

    def with_context(self, *, handle: str | None = None, node: str | None = None) -> Self:  # noqa: D102 - as above
        with_context = super().with_context(handle=handle, node=node)
        with_context.filename = with_context.handle
        return with_context


class AccessDeniedError(ResolveError, PermissionError):
    """The origin wants credentials, or other ones. `filename` is the handle.

    What to do: Give credentials to the node that the text names, which is nearly always the driver's.

    Attributes:
        identity: Who was refused, without any secret: `anonymously`, `as service account x@y`; None if not known.
    """

    def __init__(self, what: str, *, handle: str | None = None, **context: str | None) -> None:
        super().__init__(what, handle=handle, **context)
        _set_errno(self, errno.EACCES)
        self.filename = handle
        self.identity: str | None = None

    def asked(self, identity: str) -> Self:
        """A copy of this error that says who was refused, if this one does not say so yet.

        Args:
            identity: Who asked, without any secret.
        """
        if self.identity is not None:
            return self
        told = copy.copy(self)
        told.identity = identity
        told.what = f"{self.what}, asked {identity}"
        return told

    def with_context(self, *, handle: str | None = None, node: str | None = None) -> Self:  # noqa: D102 - as above
        with_context = super().with_context(handle=handle, node=node)
        with_context.filename = with_context.handle
        return with_context


class NotPinnedError(ResolveError):
    """Only pinned models are allowed (frozen, locked, offline, or an old pickle), and this one is not.

    What to do: Pin the model, or load it by its handle where the origin may be asked.
    """


class TransferError(HubdistError):
    """Bytes did not arrive; another try or another source may do."""


class OriginError(TransferError):
    """The origin failed although every retry was made, or in a way that no retry mends; the text says which.

    What to do: See what the origin says, and try again later if the text names no other mend.
    """


class PeerError(TransferError):
    """A node failed to hand on a chunk.

    What to do: Look at that node, if it happens often; another node usually served the chunk already.
    """


class NodeLostError(PeerError):
    """A node, or the agent on it, is gone.

    What to do: Look at that node, for example for its memory.
    """


class SenderLostError(PeerError):
    """The node that should send a chunk, or the agent on it, is gone.

    What to do: Look at that node, for example for its memory.
    """


class PortClosedError(PeerError):
    """The port of the node that should send a chunk cannot be reached.

    What to do: Open the ports between nodes, or set `data_ports` to a range that is open.
    """


class UnknownDeliveryError(PeerError):
    """A node takes no part in a delivery: not any more, or not yet. Who asks it asks again for some seconds.

    What to do: Look at that node, if it happens often; another node usually served the chunk already.
    """


class TransferTimeoutError(TransferError, TimeoutError):
    """Nothing arrived before the deadline.

    What to do: Look at what gave nothing; raise the time-out that the text names if it is slow and not dead.
    """

    def __init__(self, what: str, **context: str | None) -> None:
        super().__init__(what, **context)
        _set_errno(self, errno.ETIMEDOUT)


class IntegrityError(HubdistError):
    """The bytes are not the ones they claim to be. They were discarded.

    What to do: Find out who changed them.
    """


class LengthMismatchError(IntegrityError):
    """A body or file is shorter or longer than promised.

    What to do: Try again; if it stays, find out what cuts the files.
    """


class DigestMismatchError(IntegrityError):
    """A digest differs.

    What to do: If the change is wanted, remove the pin; else find out who changed the bytes.

    Attributes:
        expected: The digest that was promised, as text.
        actual: The digest of what came, as text.
    """

    def __init__(self, what: str, *, expected: str, actual: str, **context: str | None) -> None:
        super().__init__(f"{what}: expected {expected}, got {actual}", **context)
        self.expected = expected
        self.actual = actual


class UnsafeArchiveError(IntegrityError):
    """An archive or listing tries what no model needs: links, names that leave the directory, bombs.

    What to do: Do not use that archive; ask whoever made it.
    """


class StoreError(HubdistError, OSError):
    """This node's disk refuses.

    What to do: Give the user of the process the right to write there, or set `store` to another disk.

    Attributes:
        path: The path concerned, which `filename` is too, or None.
        errno: Python's number for what the disk says, such as `errno.EACCES`; None if it was not the disk that refused.
    """

    def __init__(self, what: str, *, path: str | None = None, number: int | None = None, **context: str | None) -> None:
        super().__init__(what, **context)
        self.path = self.filename = path
        _set_errno(self, number)


class StoreFullError(StoreError):
    """No room for the snapshot on this node's disk, quota or limit.

    What to do: Free space, raise `max_store_bytes`, or set `store` to another disk.

    Attributes:
        need_bytes: Bytes that were asked for.
        free_bytes: Bytes that are free, as far as is known.
        errno: `errno.ENOSPC`, or `errno.EDQUOT` where a quota is used up.
    """

    def __init__(
        self,
        what: str,
        *,
        path: str | None = None,
        number: int = errno.ENOSPC,
        need_bytes: int,
        free_bytes: int,
        **context: str | None,
    ) -> None:
        super().__init__(what, path=path, number=number, **context)
        self.need_bytes = need_bytes
        self.free_bytes = free_bytes


class UnsafeStoreError(StoreError):
    """Somebody else owns the store's directory or may write to it.

    What to do: Take the rights away as the text says, or set `store` to a directory of your own.
    """


class DeliveryError(HubdistError):
    """A delivery reached some nodes and not others.

    What to do: Look at the nodes in `failures`; the others have the model. Another try fetches only what is missing.

    Attributes:
        failures: Node name -> the error of that node.
    """

    def __init__(self, what: str, *, failures: Mapping[str, HubdistError], **context: str | None) -> None:
        lines = "".join(f"\n  {node}: {error}" for node, error in sorted(failures.items()))
        super().__init__(what + lines, **context)
        self.failures = dict(failures)
