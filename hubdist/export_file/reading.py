"""Reads an export from a file or a stream, in order and in constant memory, and checks every byte of it."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hubdist.errors import DigestMismatchError, IntegrityError, LengthMismatchError
from hubdist.export_file.layout import HEADER, RECORD_BYTES, ExportLayout, FileBlock, Literal, checksum_member, member
from hubdist.model.manifest import BLOCK_BYTES, digest_block, name_block_digest
from hubdist.system.disk import disk_errors

_MAX_HEADER_BYTES = 256 << 20
"""Most bytes of the first member. It takes about 70 bytes for each MiB of the models."""

_ADVICE = "Copy the file again, or run the same `hubdist export` again where it was written."


class ExportReader:
    """One pass over an export.

    Args:
        stream: The bytes.
        name: What errors call the export: its path, or `standard input`.
        max_header_bytes: Most bytes of the first member, which is read into memory.

    Attributes:
        offset: Bytes that were read so far.
    """

    def __init__(self, stream: BinaryIO, name: str, *, max_header_bytes: int = _MAX_HEADER_BYTES) -> None:
        self._stream = stream
        self._name = name
        self._max_header_bytes = max_header_bytes
        self._buffer = memoryview(bytearray(BLOCK_BYTES))
        self.offset = 0

    def read_layout(self) -> ExportLayout:
        """The layout, from the first two members.

        Raises:
            IntegrityError: They are damaged, or the bytes are no export.
            StoreError: The disk refuses.
        """
        record = bytes(self._read(RECORD_BYTES))
        try:
            info = tarfile.TarInfo.frombuf(record, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeError):
            raise self._error("this is not a file of `hubdist export`, or its first bytes are damaged", 0) from None
        if info.name != HEADER or not 0 < info.size <= self._max_header_bytes:
            raise self._error(f"this is not a file of `hubdist export`: it begins with {info.name!r}", 0)
        self._compare(record, member(HEADER, info.size), 0)
        header = b"".join(bytes(part) for part in self._read_long(info.size))
        at = self.offset
        rest = bytes(-info.size % RECORD_BYTES) + checksum_member(header)
        if self._read(len(rest)) != rest:
            raise self._error(f"{HEADER} and its digest do not fit", RECORD_BYTES)
        try:
            return ExportLayout.parse(header)
        except IntegrityError as error:
            raise IntegrityError(f"{self._name}, bytes {RECORD_BYTES} to {at}: {error}") from None

    def blocks(self, layout: ExportLayout) -> Iterator[tuple[FileBlock, memoryview]]:
        """Each block of each file with its bytes, checked. The next one overwrites them.

        When a file's last block has come, and its bytes are not those of the file's digest, the next step raises.

        Args:
            layout: What `read_layout` returned.

        Raises:
            IntegrityError: The export is damaged, too short or too long; the error names the byte.
            StoreError: The disk refuses.
        """
        whole = hashlib.sha256()
        for segment in layout.closing():
            at = self.offset
            data = self._read(segment.size)
            if isinstance(segment, Literal):
                self._compare(data, segment.data, at)
                continue
            actual = digest_block(data)
            if actual != segment.digest:
                raise self._block_error(segment, actual, at)
            if segment.number == 0:
                whole = hashlib.sha256()
            whole.update(data)
            if segment.is_last and whole.hexdigest() != segment.entry.digest.value:
                raise self._error(f"the blocks of {segment.entry.path} fit, and the whole file does not", at)
            yield segment, data
        with disk_errors(Path(self._name), setting="the file"):
            if self._stream.read(1):
                raise self._error("there are bytes behind the end of the export", self.offset)

    def _read_long(self, size: int) -> Iterator[memoryview]:
        for start in range(0, size, BLOCK_BYTES):
            yield self._read(min(BLOCK_BYTES, size - start))

    def _read(self, size: int) -> memoryview:
        filled = 0
        while filled < size:
            with disk_errors(Path(self._name), setting="the file"):
                data = self._stream.read(size - filled)
            if not data:
                end = self.offset + filled
                raise LengthMismatchError(f"{self._name} ends at byte {end}, in the middle", advice=_ADVICE)
            self._buffer[filled : filled + len(data)] = data
            filled += len(data)
        self.offset += size
        return self._buffer[:size]

    def _compare(self, data: bytes | memoryview, expected: bytes, at: int) -> None:
        if data != expected:
            wrong = next(index for index, byte in enumerate(expected) if data[index] != byte)
            raise self._error("the export is damaged", at + wrong)

    def _block_error(self, block: FileBlock, actual: bytes, at: int) -> DigestMismatchError:
        where = f"block {block.number} of {block.entry.path}"
        return DigestMismatchError(
            f"{self._name} is damaged between the bytes {at} and {at + block.size}, in {where}",
            expected=name_block_digest(block.digest),
            actual=name_block_digest(actual),
            advice=_ADVICE,
        )

    def _error(self, what: str, offset: int) -> IntegrityError:
        return IntegrityError(f"{self._name}, byte {offset}: {what}", advice=_ADVICE)
