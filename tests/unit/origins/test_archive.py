"""Good archives come out right; damaged ones give an error or the right model, never a wrong one."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import random
import shutil
import struct
import subprocess
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.errors import HubdistError, LengthMismatchError, ModelNotFoundError, OriginError
from hubdist.model.paths import check_entry_path
from hubdist.origins.archive import ArchiveFormat, ArchiveLimits, detect_format, unpack_stream, unpack_zip
from hubdist.origins.archive.members import is_of_macos
from hubdist.testing.memory import MemorySink
from tests.support.archives import END, MODEL, RawZip, blocks, header, member, pax, stage_in, tar, targz, unpack, zipped

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


ZIP_COMMANDS = {
    "to a file": "zip -qr ../archive .",
    "to a pipe": "zip -qr - . | cat > ../archive.zip",
    "stored": "zip -qr0 ../archive .",
    "zip64": "zip -qr -fz ../archive .",
    "without directories": "zip -qrD ../archive .",
}


@pytest.mark.parametrize("command", ZIP_COMMANDS.values(), ids=ZIP_COMMANDS.keys())
def test_what_the_zip_program_writes_comes_out_right(tmp_path: Path, command: str) -> None:
    if shutil.which("zip") is None:
        pytest.skip("the zip program is not installed")
    files = MODEL | {"assets/ünïcode.txt": b"zip sets no flag for this name"}
    for path, data in files.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(data)
    subprocess.run(command, shell=True, cwd=tmp_path / "model", check=True, timeout=20)
    assert unpacked((tmp_path / "archive.zip").read_bytes()) == files


GOOD_TARS = {
    "root and directories": header("./", kind=b"5") + header("./a/", kind=b"5") + member("./a/b"),
    "root without a slash": header(".", kind=b"5") + member("a/b"),
    "directory twice": header("a", kind=b"5") * 2 + member("a/b"),
    "directory after its file": member("a/b") + header("a/", kind=b"5"),
    "directory before there were types": header("a/", kind=b"\0", magic=bytes(8)) + member("a/b"),
    "file before there were types": member("a/b", kind=b"\0", magic=bytes(8)),
    "contiguous file": member("a/b", kind=b"7"),
    "prefix field": member("b", prefix=b"a"),
    "size in base 256": header("a/b", size=b"\x80" + (4).to_bytes(11, "big")) + blocks(b"data"),
    "size by pax only": pax(("size", "4")) + header("a/b") + blocks(b"data"),
    "size by pax too": pax(("size", "4")) + member("a/b"),
    "GNU long name": header("././@LongLink", size=4, kind=b"L", magic=b"ustar  \0") + blocks(b"a/b\0") + member("x"),
    "global comment": pax(("comment", "of git archive"), kind=b"g") + member("a/b"),
    "global header between": pax(("path", "a/b")) + pax(("comment", "x"), kind=b"g") + member("x"),
    "macOS attributes": pax(("LIBARCHIVE.xattr.com.apple.quarantine", b"\xff\n\0")) + member("a/b"),
    "character set UTF-8": pax(("hdrcharset", "ISO-IR 10646 2000 UTF-8"), ("path", "a/b")) + member("x"),
}


@pytest.mark.parametrize("data", GOOD_TARS.values(), ids=GOOD_TARS.keys())
def test_every_way_to_write_a_file_into_a_tar_is_understood(data: bytes) -> None:
    assert unpacked(data + END) == {"a/b": b"data"}
    assert unpacked(data + END + bytes(9 << 10)) == {"a/b": b"data"}


def test_directories_of_a_zip_are_no_files() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.mkdir("a")
        archive.mkdir("a/empty")
        archive.writestr("a/b", b"data")
    assert unpacked(out.getvalue()) == {"a/b": b"data"}


@pytest.mark.parametrize("layout", ["tar", "tar.gz"])
@pytest.mark.parametrize("size", [1, 511, 512, 513, 5000])
def test_the_sizes_of_a_streams_pieces_do_not_matter(layout: str, size: int) -> None:
    data = BUILDERS[layout](MODEL)
    sink = MemorySink()
    pieces = Parts(iter([data[at : at + size] for at in range(0, len(data), size)]))
    unpack_stream(pieces, ArchiveFormat(layout), sink)
    assert sink.files == MODEL


@pytest.mark.parametrize("layout", ["tar", "tar.gz"])
def test_the_streams_own_errors_pass_through(layout: str) -> None:
    error = OriginError("the connection broke")

    def broken() -> Iterator[bytes]:
        yield BUILDERS[layout](MODEL)[:2000]
        raise error

    with pytest.raises(OriginError) as caught:
        unpack_stream(Parts(broken()), ArchiveFormat(layout), MemorySink())
    assert caught.value is error


def test_empty_gzip_members_are_no_end() -> None:
    empty = gzip.compress(b"", mtime=0)
    assert unpacked(empty * 10_000 + targz(MODEL) + empty) == MODEL


def test_many_members_of_a_zip_take_no_long_time() -> None:
    archive = RawZip()
    body, directory = io.BytesIO(), io.BytesIO()
    for number in range(30_000):
        one = RawZip().add(f"{number:0200}", b"", method=0)
        directory.write(one.directory[:42] + body.tell().to_bytes(4, "little") + one.directory[46:])
        body.write(one.body)
    archive.body, archive.directory, archive.count = body.getvalue(), directory.getvalue(), 30_000
    sink = Counter()
    begin = time.process_time()
    unpack(archive.build(), sink)
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("kind", BUILDERS)
def test_only_the_inner_directory_is_written(kind: str) -> None:
    data = BUILDERS[kind]({f"a/b/{path}": content for path, content in MODEL.items()} | {"a/other": b"x"})
    assert unpacked(data, inner="a/b") == MODEL
    with pytest.raises(ModelNotFoundError, match="neither a directory nor a file 'a/c'"):
        unpacked(data, inner="a/c")


@pytest.mark.parametrize("kind", BUILDERS)
def test_one_file_of_an_archive_can_be_wanted(kind: str) -> None:
    data = BUILDERS[kind]({"a/model.onnx": b"x", "a/model.onnx.txt": b"y"})
    assert unpacked(data, inner="a/model.onnx") == {"model.onnx": b"x"}


@pytest.mark.parametrize("inner", ["", "model"])
@pytest.mark.parametrize("kind", BUILDERS)
def test_what_macos_adds_is_left_out(kind: str, inner: str) -> None:
    added = {"._model", "__MACOSX/._model", "__MACOSX/model/._saved_model.pb", "model/._saved_model.pb"}
    added |= {"model/.DS_Store", ".DS_Store", "model/assets/._vocabulary.txt", "model/__MACOSX/x"}
    before = dict.fromkeys(sorted(added)[:4], b"\0\5\x16\7")
    after = dict.fromkeys(sorted(added)[4:], b"\0\5\x16\7")
    data = BUILDERS[kind]({**before, **{f"model/{path}": content for path, content in MODEL.items()}, **after})
    assert unpacked(data, inner=inner) == {path if inner else f"model/{path}": data for path, data in MODEL.items()}


@pytest.mark.parametrize("inner", ["", "model"])
def test_a_directory_and_then_its_files_again_are_one_model(tmp_path: Path, inner: str) -> None:
    root = tmp_path / "model"
    for path, content in MODEL.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(root, "model")
        for path in sorted(root.rglob("*")):
            archive.add(path, path.relative_to(tmp_path))
    expected = {path if inner else f"model/{path}": content for path, content in MODEL.items()}
    assert unpacked(out.getvalue(), inner=inner) == expected
    assert stage_in(tmp_path / "store", out.getvalue()) == {f"model/{path}": data for path, data in MODEL.items()}


def test_a_member_of_a_zip_may_come_again_with_the_same_bytes() -> None:
    assert unpacked(RawZip().add("a/x").add("a/y").add("a/x").build()) == {"a/x": b"data", "a/y": b"data"}


def test_a_member_that_nobody_wants_may_come_again() -> None:
    assert unpacked(member("other") + member("a/x") + member("other") + END, inner="a") == {"x": b"data"}
    assert unpacked(RawZip().add("other").add("a/x").add("other").build(), inner="a") == {"x": b"data"}


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
    lambda name: name not in (".", "..") and not is_of_macos(name) and len(name.encode()) < 200
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


texts = st.one_of(
    st.sampled_from([b"a", b"a/b", b"./a", b"../a", b"/a", b"a/", b".", b"", b"a\0b", b"A", b"\xff", b"d/" * 49]),
    st.binary(max_size=100),
)
tar_sizes = st.one_of(
    st.integers(0, 600),
    st.sampled_from(
        [b"\x80" + bytes(10) + b"\7", b"\xff" * 12, b"7" * 12, bytes(12), b" 4          ", b"-0000000001\0"]
    ),
    st.binary(min_size=12, max_size=12),
)
tar_headers = st.builds(
    header,
    texts,
    size=tar_sizes,
    kind=st.sampled_from([b"0", b"\0", b"5", b"7", b"x", b"g", b"L", b"K", b"S", b"2", b"Z"]),
    magic=st.sampled_from([b"ustar\x0000", b"ustar  \0", bytes(8), b"ustar\0\0\0"]),
    prefix=st.one_of(st.just(b""), texts),
)
pax_texts = st.builds(
    lambda lead, key, value: lead + b" " + key + b"=" + value + b"\n",
    st.one_of(st.integers(-2, 40).map(lambda number: str(number).encode()), st.binary(max_size=3)),
    st.sampled_from([b"path", b"size", b"linkpath", b"hdrcharset", b"comment", b"GNU.sparse.x", b"\xff"]),
    texts,
)
tar_pieces = st.one_of(
    tar_headers,
    st.builds(member, texts, st.binary(max_size=600)),
    st.builds(lambda key, value: pax((key, value)), st.sampled_from(["path", "size", "comment"]), texts),
    st.builds(lambda data: header("x", size=len(data), kind=b"x") + blocks(data), pax_texts),
    st.builds(lambda data: header("L", size=len(data), kind=b"L") + blocks(data), texts),
    st.binary(max_size=512).map(blocks),
    st.just(bytes(512)),
)


@settings(deadline=None, max_examples=600)
@given(pieces=st.lists(tar_pieces, max_size=8), ended=st.booleans(), zipped_up=st.booleans())
def test_no_tar_headers_raise_anything_but_hubdists_errors(pieces: list[bytes], ended: bool, zipped_up: bool) -> None:
    data = b"".join(pieces) + (END if ended else b"")
    sink = MemorySink()
    with contextlib.suppress(HubdistError):
        unpack_stream(
            io.BytesIO(gzip.compress(data, 1) if zipped_up else data),
            ArchiveFormat.TAR_GZ if zipped_up else ArchiveFormat.TAR,
            sink,
        )
    for path in sink.files:
        check_entry_path(path)


few = st.one_of(st.none(), st.integers(0, 50), st.sampled_from([0xFFFFFFFF, 1 << 31]))
zip_members = st.fixed_dictionaries(
    {"name": texts, "data": st.binary(max_size=50)},
    optional={
        "local_name": texts,
        "flags": st.sampled_from([0, 1, 2, 8, 0x40, 0x800, 0x808, 0xFFFF]),
        "method": st.sampled_from([0, 8, 8, 12, 0xFFFF]),
        "crc": st.integers(0, 0xFFFFFFFF),
        "size": few,
        "packed": st.one_of(st.none(), st.binary(max_size=50)),
        "mode": st.sampled_from([0, 0o100644, 0o040755, 0o120777, 0xFFFF]),
        "system": st.sampled_from([0, 3, 19, 255]),
        "offset": few,
        "local_sizes": st.one_of(st.none(), st.tuples(*[st.sampled_from([0, 1, 0xFFFFFFFF])] * 3)),
        "descriptor": st.binary(max_size=30),
        "extra": st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda tag, size, data: struct.pack("<2H", tag, size) + data,
                st.sampled_from([1, 0x7075, 9]),
                st.integers(0, 40),
                st.binary(max_size=40),
            ),
        ),
        "local": st.booleans(),
        "dos": st.sampled_from([0, 0x10]),
    },
)


@settings(deadline=None, max_examples=600)
@given(
    members=st.lists(zip_members, max_size=4),
    count=few.map(lambda count: count and min(count, 0xFFFF)),
    size=few,
    comment=st.binary(max_size=30),
    wide=st.booleans(),
)
def test_no_zip_fields_raise_anything_but_hubdists_errors(
    members: list[dict[str, Any]], count: int | None, size: int | None, comment: bytes, wide: bool
) -> None:
    archive = RawZip()
    for fields in members:
        archive.add(**fields)
    data = archive.build64(count=count) if wide else archive.build(count=count, size=size, comment=comment)
    sink = MemorySink()
    with contextlib.suppress(HubdistError):
        unpack_zip(io.BytesIO(data), sink)
    for path in sink.files:
        check_entry_path(path)
