"""What an export is, byte by byte: an uncompressed tar archive whose content follows from handles and manifests alone.

    hubdist-export.json           format, and for each model its handles without secrets and its manifest
    hubdist-export.json.sha256    the digest of that member, as `sha256sum` prints it
    files/sha256/<digest>         each file of the models once, in the order of the models and of their manifests

Models are sorted by digest. Members have no owner, the mode 0644 and the time 0. Two records of zeros end the archive.
So equal models give equal bytes; who has the JSON knows every byte of the archive but the content of the files, and of
these the digest of each block and of the whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from hubdist.errors import HandleError, HubdistError, IntegrityError
from hubdist.model.handle import BUILT_IN_SCHEMES, Handle, parse_handle
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Digest, Entry, Manifest

HEADER = "hubdist-export.json"
"""Name of the first member."""

RECORD_BYTES = tarfile.BLOCKSIZE
"""Members begin at multiples of this."""

_FORMAT = 2
_CHECKSUM = f"{HEADER}.sha256"
_KEY = re.compile(r"[0-9a-f]{32}")
_END = bytes(2 * RECORD_BYTES)


@dataclass(frozen=True, slots=True, order=True)
class ExportedHandle:
    """A handle as a file for others may hold it.

    Attributes:
        label: The handle without secrets, as `Handle.label`.
        key: Names the handle, as `Handle.key`; a store notes its pins under it.
    """

    label: str
    key: str

    @classmethod
    def of(cls, handle: Handle) -> Self:
        """What may be known of a handle."""
        return cls(handle.label, handle.key)

    @property
    def whole(self) -> bool:
        """True if the label is the whole handle, because it has no secret."""
        return not self.label.endswith(f"#{self.key[:12]}")

    def check(self) -> None:
        """Check that the key is one of the label: a pin is kept under the key, and people read the label.

        Raises:
            HandleError: The label is no handle, or of another one than the key.
        """
        if not _KEY.fullmatch(self.key) or any(ord(char) < 32 or ord(char) == 127 for char in self.label):
            raise HandleError(f"{self.label[:100]!r} with the key {self.key[:40]!r} is not a handle")
        if self.whole:
            scheme = self.label.rpartition("::")[2].partition("://")[0].lower()
            if parse_handle(self.label, custom_schemes={scheme} - BUILT_IN_SCHEMES).key != self.key:
                raise HandleError(f"{self.key} is not the key of the handle {self.label!r}")


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A model in an export.

    Attributes:
        handles: What stands for the model, sorted.
        manifest: The model's files.
    """

    handles: tuple[ExportedHandle, ...]
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that are known: of the JSON, of headers and between members."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class FileBlock:
    """A block of a file, whose bytes are known by their digest.

    Attributes:
        entry: The file, in one of the manifests that have it.
        number: The block's place in the file, from 0.
    """

    entry: Entry
    number: int

    @property
    def start(self) -> int:
        """Offset of the block's first byte in the file."""
        return self.number * BLOCK_BYTES

    @property
    def size(self) -> int:
        """Bytes."""
        return min(BLOCK_BYTES, self.entry.size - self.start)

    @property
    def digest(self) -> bytes:
        """The BLAKE3 of the bytes."""
        return self.entry.block_digests[self.number * DIGEST_BYTES : (self.number + 1) * DIGEST_BYTES]

    @property
    def is_last(self) -> bool:
        """True for the last block of the file."""
        return self.start + self.size == self.entry.size


Segment = Literal | FileBlock
Progress = Callable[[int, int], None]
"""Gets how many bytes of how many are done."""


def no_progress(_done: int, _total: int) -> None:
    """A `Progress` that tells nobody.

    Args:
        _done: Bytes that are done.
        _total: Bytes in all.
    """


class ExportLayout:
    """All bytes of one export, in order.

    Args:
        models: The models. Several may have the same digest; they become one, with the handles of all.

    Attributes:
        models: The models, sorted by digest.
        places: Digest of a file -> the models and entries that have it, as pairs of numbers.

    Raises:
        IntegrityError: Two files have one digest but other sizes or blocks.
    """

    def __init__(self, models: Iterable[ExportedModel]) -> None:
        merged: dict[Digest, ExportedModel] = {}
        for model in models:
            known = merged.get(model.manifest.digest)
            handles = model.handles if known is None else (*model.handles, *known.handles)
            merged[model.manifest.digest] = ExportedModel(tuple(sorted(set(handles))), model.manifest)
        self.models = tuple(model for _, model in sorted(merged.items()))
        self.places: dict[Digest, list[tuple[int, int]]] = {}
        files: dict[Digest, Entry] = {}
        for number, model in enumerate(self.models):
            for index, entry in enumerate(model.manifest.entries):
                first = files.setdefault(entry.digest, entry)
                if (first.size, first.block_digests) != (entry.size, entry.block_digests):
                    raise IntegrityError(f"the files {first.path} and {entry.path} have one digest and other blocks")
                self.places.setdefault(entry.digest, []).append((number, index))
        self._files = tuple(files.values())

    @cached_property
    def header(self) -> bytes:
        """The content of the first member."""
        models = [
            {
                "handles": [{"handle": handle.label, "key": handle.key} for handle in model.handles],
                "manifest": json.loads(model.manifest.to_json()),
            }
            for model in self.models
        ]
        return (json.dumps({"hubdist_export": _FORMAT, "models": models}, indent=1, ensure_ascii=False) + "\n").encode()

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole archive."""
        opening = sum(segment.size for segment in self.opening())
        files = sum(RECORD_BYTES + entry.size + len(_padding(entry.size)) for entry in self._files)
        return opening + files + len(_END)

    def opening(self) -> Iterator[Literal]:
        """The two members before the files."""
        header = self.header
        yield Literal(member(HEADER, len(header)))
        for start in range(0, len(header), BLOCK_BYTES):
            yield Literal(header[start : start + BLOCK_BYTES])
        yield Literal(_padding(len(header)) + checksum_member(header))

    def segments(self) -> Iterator[Segment]:
        """Everything, in pieces of at most some MiB."""
        yield from self.opening()
        yield from self.closing()

    def closing(self) -> Iterator[Segment]:
        """Everything behind the first two members."""
        for entry in self._files:
            yield Literal(member(f"files/{entry.digest.algorithm}/{entry.digest.value}", entry.size))
            for number in range(entry.check_blocks_fit()):
                yield FileBlock(entry, number)
            if padding := _padding(entry.size):
                yield Literal(padding)
        yield Literal(_END)

    @classmethod
    def parse(cls, header: bytes) -> Self:
        """The layout of an export, by the content of its first member. Block digests of its manifests are not proven.

        Args:
            header: The content. Nothing in it is believed.

        Raises:
            IntegrityError: It is not what `header` gives for any models, or of a format that is not known.
        """
        try:
            document: dict[str, Any] = json.loads(header)
            version = document["hubdist_export"]
            models = [_parse_model(each) for each in document["models"]] if version == _FORMAT else []
        except (HubdistError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"{HEADER} is not what `hubdist export` writes: {error}") from None
        if version != _FORMAT:
            raise IntegrityError(
                f"the export has the format {version!r}, and this hubdist reads {_FORMAT}",
                advice="Import it with the version of hubdist that wrote it.",
            )
        layout = cls(models)
        if layout.header != header:
            raise IntegrityError(f"{HEADER} is not what `hubdist export` writes for these models")
        return layout


def member(name: str, size: int) -> bytes:
    """The header of a member.

    Args:
        name: The member's name, at most 100 ASCII characters.
        size: Bytes of the member; a size from 8 GiB on is written as GNU tar does.
    """
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def checksum_member(header: bytes) -> bytes:
    """The second member, which tells the digest of the first.

    Args:
        header: The content of the first.
    """
    line = f"{hashlib.sha256(header).hexdigest()}  {HEADER}\n".encode()
    return member(_CHECKSUM, len(line)) + line + _padding(len(line))


def _padding(size: int) -> bytes:
    """The zeros behind a member of this size."""
    return bytes(-size % RECORD_BYTES)


def _parse_model(document: Any) -> ExportedModel:
    handles = tuple(ExportedHandle(str(each["handle"]), str(each["key"])) for each in document["handles"])
    for handle in handles:
        handle.check()
    manifest = Manifest.from_json(json.dumps(document["manifest"]).encode())
    if not manifest.entries:
        raise IntegrityError(f"the model {manifest.digest} has no files")
    return ExportedModel(handles, manifest.unproven())
