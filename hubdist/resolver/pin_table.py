"""What one process or one job has pinned: found by handle, and by the digest of the model."""

from __future__ import annotations

from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest
from hubdist.report.delivery import PinReport
from hubdist.resolver.values import Pinned


class PinTable:
    """Pins in memory. Safe for several threads, of which one at a time changes the pin of a handle."""

    def __init__(self) -> None:
        self._current: dict[str, Pinned] = {}
        self._former: dict[Digest, Pinned] = {}
        """What handles stood for before they were refreshed. A process that loaded such a model may need it again."""

    @property
    def reports(self) -> tuple[PinReport, ...]:
        """What every handle stands for now, in the order in which the handles were pinned."""
        return tuple(pinned.report for pinned in tuple(self._current.values()))

    def find(self, handle: Handle) -> Pinned | None:
        """What a handle stands for; None if it is not pinned."""
        return self._current.get(handle.key)

    def keep(self, pinned: Pinned) -> None:
        """Pin a handle. The model that it stood for before stays known by its digest."""
        before = self._current.get(pinned.handle.key)
        self._current[pinned.handle.key] = pinned
        if before is not None and before.digest != pinned.digest:
            self._former[before.digest] = before

    def update(self, pinned: Pinned) -> None:
        """Replace what is known of a pin by more recent knowledge. A handle that was refreshed since stays as it is."""
        current = self._current.get(pinned.handle.key)
        if current is not None and current.digest == pinned.digest:
            self._current[pinned.handle.key] = pinned

    def of_digest(self, digest: Digest) -> list[Pinned]:
        """The pins of a model, the former one last. Several handles may stand for the same bytes."""
        found = [pinned for pinned in tuple(self._current.values()) if pinned.digest == digest]
        former = self._former.get(digest)
        return found if former is None else [*found, former]

    def is_current(self, digest: Digest) -> bool:
        """True if a handle stands for this model now."""
        return any(pinned.digest == digest for pinned in tuple(self._current.values()))

    def clear(self) -> None:
        """Forget all pins."""
        self._current.clear()
        self._former.clear()
