"""What a transfer brings, and where it first comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from hubdist.cluster.nodes import Node
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy

Staged = Callable[[Chunk], tuple[str, Mapping[int, str]]]


@dataclass(frozen=True, slots=True)
class SeedSource:
    """Where the chunks of a transfer first come from: a node's snapshot, unless one of the calls says otherwise.

    Attributes:
        name: In the plan: a node's id, or anything else for a place that nodes read themselves.
        redacted: The same for people.
        node: The node; None for a place.
        staged: Where a chunk lies while the origin is being read: the name of a stage, and the paths of files there.
        place: The place.
    """

    name: str
    redacted: str
    node: Node | None
    staged: Staged | None = None
    place: RemoteCopy | None = None

    @classmethod
    def at(cls, node: Node, staged: Staged | None = None) -> Self:
        """The driver's node."""
        return cls(node.id, node.name, node, staged)

    @classmethod
    def read_at(cls, place: RemoteCopy) -> Self:
        """A place that nodes read themselves."""
        return cls(place.redacted, place.redacted, None, None, place)


@dataclass(slots=True)
class Payload:
    """What is known of the model so far.

    Attributes:
        chunks: Its chunks; more come while the origin is being read.
        manifest: Its files; None until the origin has been read.
        ordinals: For each entry of the manifest, which of the files of the chunks it is.
    """

    chunks: list[Chunk] = field(default_factory=list)
    manifest: Manifest | None = None
    ordinals: tuple[int, ...] = ()

    @property
    def digest(self) -> Digest | None:
        """The model's, once it is known."""
        return None if self.manifest is None else self.manifest.digest

    @property
    def total_bytes(self) -> int:
        """Bytes, as far as they are known."""
        return sum(chunk.size for chunk in self.chunks)
