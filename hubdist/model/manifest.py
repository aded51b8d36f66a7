"""Digests, entries and manifests: the frozen values that say which bytes a model is.

A manifest lists the files of a model with size and digest. The manifest's own digest names the model: the sha256 of
one line `<file's sha256 hex> <size> <path>` + newline for each entry, in order of path, so anybody can recompute it
with `sha256sum`. Directories, modes, owners and times are not part of a model.

Each entry carries the BLAKE3 digests of its blocks of `BLOCK_BYTES` too. Block digests follow from the same bytes and
are not part of the model's digest. They let a receiver check one chunk before the rest of its file is there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

from blake3 import blake3

from hubdist.errors import DigestMismatchError, HandleError, IntegrityError
from hubdist.model.paths import PathSet

BLOCK_BYTES = 1 << 20
"""Bytes that one block digest covers; a file's last block may be shorter. The manifest's format fixes this size."""

DIGEST_BYTES = 32
"""Bytes of one block digest."""

_FORMAT = 2


def digest_block(data: bytes | bytearray | memoryview) -> bytes:
    """The BLAKE3 digest of a block's bytes, 32 bytes.

    It proves a block as sha256 would (both resist collisions with a strength of 128 bits), in less than half the time.

    Args:
        data: At most `BLOCK_BYTES`.
    """
    return blake3(data).digest()


def name_block_digest(digest: bytes) -> str:
    """How errors print a block's digest: `blake3:<64 hex digits>`."""
    return f"blake3:{digest.hex()}"


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """Algorithm and value of a digest; printed and parsed as `sha256:<64 hex digits>`."""

    value: str
    algorithm: str = "sha256"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<hex>`.

        Raises:
            HandleError: The text has another form.
        """
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
            raise HandleError(f"{text!r} is not a digest", advice="A digest reads sha256:<64 lower-case hex digits>.")
        return cls(text.removeprefix("sha256:"))

    def __str__(self) -> str:
        """`sha256:<hex>`."""
        return f"{self.algorithm}:{self.value}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a model.

    Attributes:
        path: Path below the model's directory, `/` between names.
        size: Bytes.
        digest: Digest of the whole file.
        block_digests: The BLAKE3 of each block of `BLOCK_BYTES`, 32 bytes each, one after another.
    """

    path: str
    size: int
    digest: Digest
    block_digests: bytes

    def check_whole(self, digest: Digest) -> None:
        """Compare the digest of a whole file with this entry's.

        Raises:
            DigestMismatchError: The digests differ.
        """
        if digest != self.digest:
            raise DigestMismatchError(
                f"{self.path} is not the manifest's", expected=str(self.digest), actual=str(digest)
            )

    def check_blocks_fit(self) -> int:
        """Check that there is one digest for each block, and return their number.

        Raises:
            IntegrityError: There are more digests, or fewer, or the size is negative.
        """
        count = -(-self.size // BLOCK_BYTES)
        if self.size < 0 or len(self.block_digests) != DIGEST_BYTES * count:
            raise IntegrityError(f"the manifest's block digests of {self.path} do not fit its size")
        return count


class EntryDigester:
    """Digests a file's bytes as they stream by, in order.

    Args:
        path: The file's path below the model's directory, for its entry.

    Attributes:
        size: Bytes that were taken so far.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._whole = hashlib.sha256()
        self._block = blake3()
        self._block_filled = 0
        self._blocks: list[bytes] = []
        self._taken = 0
        self._ended = False
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the file."""
        view = memoryview(data)
        self._whole.update(view)
        self.size += len(view)
        while len(view) > 0:
            part = view[: BLOCK_BYTES - self._block_filled]
            self._block.update(part)
            self._block_filled += len(part)
            view = view[len(part) :]
            if self._block_filled == BLOCK_BYTES:
                self._end_block()

    def take_blocks(self) -> tuple[int, int, bytes]:
        """The blocks that were completed since the last call: offset of the first, bytes and digests of all."""
        start, self._taken = self._taken, self.size if self._ended else self.size - self._block_filled
        first = start // BLOCK_BYTES
        return start, self._taken - start, b"".join(self._blocks[first : -(-self._taken // BLOCK_BYTES)])

    def entry(self) -> Entry:
        """The entry of the file. Call this once, after the last byte."""
        if self._block_filled:
            self._end_block()
        self._ended = True
        return Entry(self._path, self.size, Digest(self._whole.hexdigest()), b"".join(self._blocks))

    def _end_block(self) -> None:
        self._blocks.append(self._block.digest())
        self._block, self._block_filled = blake3(), 0


@dataclass(frozen=True)
class Manifest:
    """The files of a model. Make one with `Manifest.of`.

    Attributes:
        entries: The files, sorted by path.
        blocks_proven: True if whoever made this manifest has taken the block digests from the model's own bytes. False
            if the manifest was read from a place whose writers are not trusted, such as a record in a shared cache. The
            model's digest covers the digests of whole files, but no block digests: such a place could give other block
            digests, and other bytes that fit them. So readers of an unproven manifest must digest whole files as well
            before they use the model. This mark travels with the manifest between processes, and is neither written to
            JSON nor compared.
    """

    entries: tuple[Entry, ...]
    blocks_proven: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """The manifest of these files, in any order.

        Raises:
            UnsafeArchiveError: A path is unsafe or two of them clash.
        """
        ordered = tuple(sorted(entries, key=lambda entry: entry.path))
        paths = PathSet()
        for entry in ordered:
            paths.add_file(entry.path)
        return cls(ordered)

    @cached_property
    def digest(self) -> Digest:
        """The digest that names the model."""
        whole = hashlib.sha256()
        for entry in self.entries:
            whole.update(f"{entry.digest.value} {entry.size} {entry.path}\n".encode())
        return Digest(whole.hexdigest())

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.entries)

    def unproven(self) -> Self:
        """The same manifest for readers who must not trust its block digests; `blocks_proven` says why."""
        return replace(self, blocks_proven=False)

    def to_json(self) -> bytes:
        """The manifest as the content of a file: JSON in UTF-8, for `from_json`."""
        files = [
            {"path": entry.path, "size": entry.size, "sha256": entry.digest.value, "blocks": entry.block_digests.hex()}
            for entry in self.entries
        ]
        document = {"hubdist_manifest": _FORMAT, "digest": str(self.digest), "block_bytes": BLOCK_BYTES, "files": files}
        return json.dumps(document, indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote, and check all that can be checked without the model's files.

        Args:
            data: The content of the file. If its writers are not trusted, the caller goes on with `unproven`.

        Raises:
            IntegrityError: The data is not a manifest, or the manifest's digest does not follow from its files.
        """
        try:
            document = json.loads(data)
            if (document["hubdist_manifest"], document["block_bytes"]) != (_FORMAT, BLOCK_BYTES):
                raise ValueError("another version")
            manifest = cls.of(
                Entry(
                    str(file["path"]),
                    int(file["size"]),
                    Digest.parse(f"sha256:{file['sha256']}"),
                    bytes.fromhex(file["blocks"]),
                )
                for file in document["files"]
            )
            claimed = document["digest"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, HandleError) as error:
            raise IntegrityError(f"this is not a manifest of hubdist: {error}") from error
        for entry in manifest.entries:
            entry.check_blocks_fit()
        if claimed != str(manifest.digest):
            raise DigestMismatchError("the manifest is damaged", expected=str(claimed), actual=str(manifest.digest))
        return manifest
