"""Every error of hubdist, by what the caller can do about it.

    HubdistError
    |- ConfigError                        fix the configuration
    |- HandleError                        fix the handle
    |- NotAModelError                     the files are there, but are not one SavedModel
    |- MissingOperationError              import the package that registers the model's operations
    |- TravelError                        a changed model that cannot be pickled or copied whole
    |- ResolveError                       the origin says no
    |  |- ModelNotFoundError
    |  |- AccessDeniedError
    |  '- NotPinnedError                  frozen or offline, and this handle has no pin
    |- TransferError                      may be tried again, elsewhere
    |  |- OriginError
    |  |- PeerError
    |  '- TransferTimeoutError
    |- IntegrityError                     wrong bytes, never accepted
    |  |- LengthMismatchError
    |  |- DigestMismatchError
    |  '- UnsafeArchiveError
    |- StoreError                         this node's disk
    |  |- StoreFullError
    |  '- UnsafeStoreError
    '- DeliveryError                      some nodes failed: node -> error

An error names what happened, the handle, the node and what to do. All of them pickle with their fields, so they
reach the calling process from any node unchanged.
"""

from __future__ import annotations

import copy
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
        super().__init__(what)
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
        """The same error with handle and node filled in where they are still unknown."""
        with_context = copy.copy(self)
        with_context.handle = self.handle if self.handle is not None else handle
        with_context.node = self.node if self.node is not None else node
        return with_context

    def advised(self, further: str) -> Self:
        """The same error with a further sentence of advice."""
        advised = copy.copy(self)
        advised.advice = further if self.advice is None else f"{self.advice} {further}"
        return advised

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by fields, so that subclasses may have any signature."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[HubdistError], args: tuple[Any, ...], fields: dict[str, Any]) -> HubdistError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class ConfigError(HubdistError):
    """A configuration value is unknown, of the wrong type or out of range."""


class HandleError(HubdistError, ValueError):
    """The handle cannot be understood, or its kind is not allowed or not installed.

    It is a `ValueError` too, as `tensorflow_hub.load` raises one for what is not a string.
    """


class NotAModelError(HubdistError, ValueError):
    """The files are not a SavedModel or TF1 hub module, or are several versions of one: they cannot be loaded.

    It is a `ValueError` too, as `tensorflow_hub.load` raises one.
    """


class MissingOperationError(HubdistError):
    """The model uses an operation that no package has registered in this process.

    Attributes:
        operation: Its name.
    """

    def __init__(self, what: str, *, operation: str, **context: str | None) -> None:
        super().__init__(what, **context)
        self.operation = operation


class TravelError(HubdistError):
    """A loaded model was changed in a way that a pickle or a copy of it cannot reproduce."""


class ResolveError(HubdistError):
    """The origin was reached and says no."""


class ModelNotFoundError(ResolveError):
    """The origin has nothing under this handle."""


class AccessDeniedError(ResolveError):
    """The origin wants credentials, or other ones."""


class NotPinnedError(ResolveError):
    """Only pinned models are allowed (frozen, offline, or an old pickle), and this one is not."""


class TransferError(HubdistError):
    """Bytes did not arrive; another try or another source may do."""


class OriginError(TransferError):
    """The origin failed although every retry was made."""


class PeerError(TransferError):
    """A node failed to hand on a chunk."""


class TransferTimeoutError(TransferError):
    """Nothing arrived before the deadline."""


class IntegrityError(HubdistError):
    """The bytes are not the ones they claim to be. They were discarded."""


class LengthMismatchError(IntegrityError):
    """A body or file is shorter or longer than promised."""


class DigestMismatchError(IntegrityError):
    """A digest differs.

    Attributes:
        expected: The digest that was promised, as text.
        actual: The digest of what came, as text.
    """

    def __init__(self, what: str, *, expected: str, actual: str, **context: str | None) -> None:
        super().__init__(f"{what}: expected {expected}, got {actual}", **context)
        self.expected = expected
        self.actual = actual


class UnsafeArchiveError(IntegrityError):
    """An archive or listing tries what no model needs: links, names that leave the directory, bombs."""


class StoreError(HubdistError):
    """This node's disk refuses.

    Attributes:
        path: The path concerned, or None.
    """

    def __init__(self, what: str, *, path: str | None = None, **context: str | None) -> None:
        super().__init__(what, **context)
        self.path = path


class StoreFullError(StoreError):
    """No room for the snapshot on this node's disk, quota or limit.

    Attributes:
        need_bytes: Bytes that were asked for.
        free_bytes: Bytes that are free, as far as is known.
    """

    def __init__(
        self, what: str, *, path: str | None = None, need_bytes: int, free_bytes: int, **context: str | None
    ) -> None:
        super().__init__(what, path=path, **context)
        self.need_bytes = need_bytes
        self.free_bytes = free_bytes


class UnsafeStoreError(StoreError):
    """Somebody else owns the store's directory or may write to it."""


class DeliveryError(HubdistError):
    """A delivery reached some nodes and not others.

    Attributes:
        failures: Node name -> the error of that node.
    """

    def __init__(self, what: str, *, failures: Mapping[str, HubdistError], **context: str | None) -> None:
        lines = "".join(f"\n  {node}: {error}" for node, error in sorted(failures.items()))
        super().__init__(what + lines, **context)
        self.failures = dict(failures)
