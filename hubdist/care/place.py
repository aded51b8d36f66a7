"""`CarePlace`: what can be done with the models of this node's store, of all nodes' stores, or of the shared cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from hubdist.care.collection import Removal
from hubdist.care.listing import StoredModel
from hubdist.care.verification import Verified
from hubdist.errors import HubdistError
from hubdist.model.manifest import Digest

_T_co = TypeVar("_T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Answers(Generic[_T_co]):
    """What each store of a place answered.

    Attributes:
        by_store: Name of a node, or of the shared cache -> its answer.
        failures: Name -> why there is no answer.
    """

    by_store: Mapping[str, _T_co]
    failures: Mapping[str, HubdistError] = field(default_factory=dict)


class CarePlace(Protocol):
    """Stores that somebody takes care of. Use it as a context manager.

    A store that fails is among the failures of the answer; the others have done what was asked.
    """

    def list_models(self) -> Answers[list[StoredModel]]:
        """All models; in each store the one that was used last comes first."""
        ...

    def verify(self, digests: Sequence[Digest] | None, *, repair: bool) -> Answers[list[Verified]]:
        """Read every byte again, and compare it with the manifest.

        Args:
            digests: The models; None for all. What a store does not have is left out of its answer.
            repair: Mend what is damaged: from stores of other nodes, from the shared cache, and from the origin, in
                this order. What cannot be mended is moved aside, so that nobody loads it.
        """
        ...

    def remove(self, digests: Sequence[Digest], *, dry_run: bool) -> Answers[list[Removal]]:
        """Delete models that nobody uses and nobody keeps.

        Args:
            digests: The models.
            dry_run: Only tell what would be deleted.
        """
        ...

    def collect(self, *, max_bytes: int | None, max_age_s: float | None, dry_run: bool) -> Answers[list[Removal]]:
        """Delete what dead processes left, and models that are too old or too many.

        Args:
            max_bytes: Most bytes of models that stay; None for no limit.
            max_age_s: Models that were not used for more seconds than this go; None for no limit.
            dry_run: Only tell what would be deleted.
        """
        ...

    def keep(self, digests: Sequence[Digest]) -> Answers[list[Digest]]:
        """Never evict models, until `release`; the answer has those that are there."""
        ...

    def release(self, digests: Sequence[Digest]) -> Answers[list[Digest]]:
        """Let stores evict models again; the answer has those that were kept."""
        ...
