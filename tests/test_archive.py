"""Good archives come out right; damaged ones give an error or the right model, never a wrong one."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import random
import shutil
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.archive import ArchiveFormat, ArchiveLimits, detect_format, unpack_stream
from hubdist.errors import HubdistError, LengthMismatchError, ModelNotFoundError
from hubdist.testing.memory import MemorySink
from tests.archives import END, MODEL, header, member, tar, targz, unpack, zipped

BUILDERS = {"tar": tar, "tar.gz": targz, "zip": zipped}


def unpacked(data: bytes, inner: str = "") -> dict[str, bytes]:
    sink = MemorySink()
    unpack(data, sink, inner=inner)
    return sink.files


class NoSeek(io.RawIOBase):
    """A stream that zipfile cannot seek in, so that it writes data descriptors."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer is fine here
        self.data += bytes(data)
        return len(data)


def streamed_zip() -> bytes:
    out = NoSeek()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in MODEL.items():
            archive.writestr(path, data)
    return out.data


def zip64() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in MODEL.items():
            with archive.open(path, "w", force_zip64=True) as file:
                file.write(data)
    return out.getvalue()


GOOD = {
    "tar ustar": tar(MODEL, tarfile.USTAR_FORMAT),
    "tar gnu": tar(MODEL, tarfile.GNU_FORMAT),
    "tar pax": tar(MODEL, tarfile.PAX_FORMAT),
    "tar with ./": tar(MODEL, prefix="./"),
    "tar.gz": targz(MODEL),
    "tar.gz in two members": gzip.compress(tar(MODEL)[:5000]) + gzip.compress(tar(MODEL)[5000:]),
    "zip deflated": zipped(MODEL),
    "zip stored": zipped(MODEL, zipfile.ZIP_STORED),
    "zip with descriptors": streamed_zip(),
    "zip64": zip64(),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
def test_good_archives_come_out_right(data: bytes) -> None:
    assert unpacked(data) == MODEL


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_come_out_right(layout: int) -> None:
    files = {"directory/" * 12 + "f" * 120: b"long", "ünïcode/名前": b"unicode"}
    assert unpacked(tar(files, layout)) == files


@pytest.mark.parametrize("flags", [["-cf"], ["-czf"], ["--format=pax", "-cf"], ["--format=gnu", "-czf"]])
def test_what_the_tar_program_writes_comes_out_right(tmp_path: Path, flags: list[str]) -> None:
    if shutil.which("tar") is None:
        pytest.skip("the tar program is not installed")
    for path, data in MODEL.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(data)
    archive = tmp_path / "archive"
    subprocess.run(["tar", "-C", str(tmp_path / "model"), *flags, str(archive), "."], check=True, timeout=20)
    assert unpacked(archive.read_bytes()) == MODEL


@pytest.mark.parametrize("kind", BUILDERS)
def test_only_the_inner_directory_is_written(kind: str) -> None:
    data = BUILDERS[kind]({f"a/b/{path}": content for path, content in MODEL.items()} | {"a/other": b"x"})
    assert unpacked(data, inner="a/b") == MODEL
    with pytest.raises(ModelNotFoundError):
        unpacked(data, inner="a/c")


def test_formats_are_told_by_their_first_bytes() -> None:
    assert detect_format(tar(MODEL)[:512]) is ArchiveFormat.TAR
    assert detect_format(targz(MODEL)[:512]) is ArchiveFormat.TAR_GZ
    assert detect_format(zipped(MODEL)[:512]) is ArchiveFormat.ZIP
    assert detect_format(b"<!doctype html>".ljust(512)) is None
    assert detect_format(b"") is None


@pytest.mark.parametrize("kind", BUILDERS)
def test_no_truncation_gives_a_wrong_model(kind: str) -> None:
    data = BUILDERS[kind](MODEL)
    for size in range(0, len(data), 7):
        try:
            files = unpacked(data[:size])
        except HubdistError:
            continue
        assert files == MODEL, f"cut at byte {size} of {len(data)}"


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_no_flipped_bit_gives_a_wrong_model(kind: str) -> None:
    data = bytearray(BUILDERS[kind](MODEL))
    for bit in random.Random(11).sample(range(len(data) * 8), 500):
        data[bit // 8] ^= 1 << bit % 8
        try:
            assert unpacked(bytes(data)) == MODEL, f"bit {bit}"
        except HubdistError:
            pass
        finally:
            data[bit // 8] ^= 1 << bit % 8


class Parts:
    """A stream of blocks that are made one at a time."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.parts = parts
        self.rest = b""

    def read(self, size: int) -> bytes:
        self.rest = self.rest or next(self.parts, b"")
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


class Counter:
    """A sink that counts bytes and keeps none."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[Counter]:
        yield self

    def add_directory(self, path: str) -> None: ...

    def write(self, data: bytes | memoryview) -> None:
        self.count += len(data)


def test_a_large_tar_is_unpacked_in_constant_memory() -> None:
    parts = itertools.chain([header("large", size=64 << 20)], itertools.repeat(bytes(1 << 20), 64), [END])
    sink = Counter()
    tracemalloc.start()
    try:
        unpack_stream(Parts(parts), ArchiveFormat.TAR, sink)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert sink.count == 64 << 20


def test_limits_hold() -> None:
    with pytest.raises(HubdistError, match="members"):
        unpack(tar(MODEL), MemorySink(), limits=ArchiveLimits(max_members=4))
    with pytest.raises(HubdistError, match="bytes"):
        unpack(targz({"bomb": bytes(10 << 20)}), MemorySink(), limits=ArchiveLimits(max_bytes=1 << 20))


def test_an_archive_cut_before_its_end_mark_is_refused() -> None:
    with pytest.raises(LengthMismatchError):
        unpacked(member("saved_model.pb"))


names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="/\\\x7f"), min_size=1).filter(
    lambda name: name not in (".", "..") and not name.startswith("./") and len(name.encode()) < 200
)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=2000), min_size=1, max_size=6
)


@settings(deadline=None, max_examples=60)
@given(files=trees, kind=st.sampled_from(sorted(BUILDERS)))
def test_any_tree_survives_packing_or_is_refused(files: dict[str, bytes], kind: str) -> None:
    try:
        assert unpacked(BUILDERS[kind](files)) == files
    except HubdistError as error:
        assert "clash" in str(error) or "control" in str(error)


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(["tar", "zip"]),
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_no_bytes_raise_anything_but_hubdists_errors(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(BUILDERS[kind]({"a": b"x" * 700, "b/c": b"y"}))
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(HubdistError):
        unpacked(bytes(data))
