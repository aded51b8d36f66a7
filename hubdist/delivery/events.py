"""What a delivery plan is told, and the commands that it answers. Nodes are named by text, chunks by number."""

from __future__ import annotations

from dataclasses import dataclass

from hubdist.errors import HubdistError


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node has a stage and wants all chunks."""

    node: str


@dataclass(frozen=True, slots=True)
class HolderJoined:
    """A node has the snapshot on its disk and can send every chunk; `zone` as in `Newcomer`."""

    node: str
    zone: str = ""


@dataclass(frozen=True, slots=True)
class ChunksReady:
    """The source has more chunks, of these sizes in bytes; the origin is still being read."""

    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SourcePublished:
    """The source has all chunks of the model: no more will be ready, and nodes may publish."""


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    """A node has fetched, checked and written a chunk; `sender` sent it, in `seconds`."""

    node: str
    chunk: int
    sender: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ChunkFailed:
    """A chunk did not reach a node from `sender`, or came with wrong bytes; another try may help."""

    node: str
    chunk: int
    sender: str
    error: HubdistError


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """A node cannot go on: it died, or its disk refuses."""

    node: str
    error: HubdistError


@dataclass(frozen=True, slots=True)
class NodeSilent:
    """A node gives no answer. It may be gone or come back; until then the plan does not count on it."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeHeard:
    """A node that was silent answers again."""

    node: str


@dataclass(frozen=True, slots=True)
class NodePublished:
    """A node has published the snapshot."""

    node: str


@dataclass(frozen=True, slots=True)
class SourceFailed:
    """The source cannot go on, for all nodes."""

    error: HubdistError


NodeEvent = HolderJoined | SourcePublished | NodeFailed | NodeSilent | NodeHeard | NodePublished | SourceFailed
"""Events that every plan takes."""

Event = NodeJoined | ChunksReady | ChunkArrived | ChunkFailed | NodeEvent


@dataclass(frozen=True, slots=True)
class Fetch:
    """Let this node fetch a chunk from `sender`; answered by ChunkArrived, ChunkFailed or NodeFailed."""

    node: str
    chunk: int
    sender: str


@dataclass(frozen=True, slots=True)
class Publish:
    """This node has every chunk: let it publish; answered by NodePublished or NodeFailed."""

    node: str


@dataclass(frozen=True, slots=True)
class Finish:
    """This node is done, with an error or without; given once for each node that joined."""

    node: str
    error: HubdistError | None


Command = Fetch | Publish | Finish
