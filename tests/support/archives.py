"""Builds archives, good and bad, byte by byte where the standard library would refuse."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from hubdist.model.source import FileSink
from hubdist.origins.archive import ArchiveFormat, ArchiveLimits, detect_format, unpack_stream, unpack_zip
from hubdist.origins.archive.members import DEFAULT_LIMITS
from hubdist.store.store import Store

_RANDOM = random.Random(7)
MODEL: dict[str, bytes] = {
    "saved_model.pb": _RANDOM.randbytes(3000),
    "assets/vocabulary.txt": b"one\ntwo\nthree\n" * 40,
    "variables/variables.index": _RANDOM.randbytes(150),
    "variables/variables.data-00000-of-00001": bytes(2000) + _RANDOM.randbytes(2500),
    "empty.txt": b"",
}


def unpack(data: bytes, sink: FileSink, *, inner: str = "", limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Unpack bytes the way an origin does."""
    found = detect_format(data[:512])
    if found is ArchiveFormat.ZIP:
        unpack_zip(io.BytesIO(data), sink, inner=inner, limits=limits)
    else:
        unpack_stream(io.BytesIO(data), found or ArchiveFormat.TAR, sink, inner=inner, limits=limits)


def stage_in(root: Path, data: bytes) -> dict[str, bytes]:
    """Unpack into a real store's stage; return what was staged, before it is discarded."""
    with Store(root).stage() as stage:
        unpack(data, stage)
        files = [path for path in stage.files.rglob("*") if path.is_file()]
        return {str(path.relative_to(stage.files)): path.read_bytes() for path in files}


def tar(files: Mapping[str, bytes], layout: int = tarfile.PAX_FORMAT, *, prefix: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(prefix + path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def targz(files: Mapping[str, bytes]) -> bytes:
    return gzip.compress(tar(files), mtime=0)


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return out.getvalue()


def header(
    name: str | bytes = "file",
    *,
    size: int | bytes = 0,
    kind: bytes = b"0",
    magic: bytes = b"ustar\x0000",
    link: str | bytes = b"",
    prefix: bytes = b"",
) -> bytes:
    """One tar header with a right checksum, whatever is in it."""

    def raw(text: str | bytes) -> bytes:
        return text.encode() if isinstance(text, str) else text

    size_field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = raw(name).ljust(100, b"\0")[:100] + b"0000644\0" + b"0000000\0" * 2 + size_field + b"00000000000\0"
    block += b" " * 8 + kind + raw(link).ljust(100, b"\0")[:100] + magic + bytes(80) + prefix.ljust(155, b"\0")
    block = block.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def blocks(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str | bytes, data: bytes = b"data", **fields: bytes) -> bytes:
    return header(name, size=len(data), **fields) + blocks(data)  # type: ignore[arg-type]  # passed through


def pax(*records: tuple[str | bytes, str | bytes], kind: bytes = b"x") -> bytes:
    out = b""
    for key, value in records:
        body = b" " + (key.encode() if isinstance(key, str) else key) + b"="
        body += (value.encode() if isinstance(value, str) else value) + b"\n"
        size = len(body) + 1
        while len(str(size)) + len(body) != size:
            size = len(str(size)) + len(body)
        out += str(size).encode() + body
    return header("pax", size=len(out), kind=kind) + blocks(out)


END = bytes(1024)


class RawZip:
    """A zip put together by hand: every field can lie."""

    def __init__(self) -> None:
        self.body = b""
        self.directory = b""
        self.count = 0

    def add(
        self,
        name: str | bytes = "file",
        data: bytes = b"data",
        *,
        local_name: bytes | None = None,
        flags: int = 0,
        method: int = 8,
        crc: int | None = None,
        size: int | None = None,
        packed: bytes | None = None,
        mode: int = 0o100644,
        system: int = 3,
        offset: int | None = None,
        local_sizes: tuple[int, int, int] | None = None,
        descriptor: bytes = b"",
        extra: bytes = b"",
        local: bool = True,
        dos: int = 0,
    ) -> RawZip:
        raw = name.encode() if isinstance(name, str) else name
        local_raw = raw if local_name is None else local_name
        if packed is None:
            deflate = zlib.compressobj(wbits=-15)
            packed = deflate.compress(data) + deflate.flush() if method == 8 else data
        told = (zlib.crc32(data) if crc is None else crc, len(packed), len(data) if size is None else size)
        at = len(self.body) if offset is None else offset
        if local:
            self.body += struct.pack(
                "<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, *(local_sizes or told), len(local_raw), 0
            )
            self.body += local_raw + packed + descriptor
        self.directory += struct.pack(
            "<4s2B5H3L5H2L",
            *(b"PK\1\2", 20, system, 20, flags, method, 0, 0, *told),
            *(len(raw), len(extra), 0, 0, 0, mode << 16 | dos, at),
        )
        self.directory += raw + extra
        self.count += 1
        return self

    def gap(self, data: bytes) -> RawZip:
        """Bytes that belong to no member."""
        self.body += data
        return self

    def forget(self, directory_bytes: int) -> RawZip:
        """Leave the first bytes of the central directory out."""
        self.directory = self.directory[directory_bytes:]
        return self

    def build64(self, *, count: int | None = None, narrow_size: int = 0xFFFFFFFF) -> bytes:
        """End with both end records; `narrow_size` is what the 32-bit one says of the directory."""
        claimed = self.count if count is None else count
        at = len(self.body) + len(self.directory)
        record = struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, claimed, claimed, len(self.directory), len(self.body)
        )
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, narrow_size, 0xFFFFFFFF, 0)
        return self.body + self.directory + record + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1) + end

    def build(self, *, count: int | None = None, size: int | None = None, comment: bytes = b"", disk: int = 0) -> bytes:
        claimed = self.count if count is None else count
        length = len(self.directory) if size is None else size
        end = struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, claimed, claimed, length, len(self.body), len(comment))
        return self.body + self.directory + end + comment
