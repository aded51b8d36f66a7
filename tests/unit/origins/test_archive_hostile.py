"""Archives that try something: each is refused, and nothing is written outside the stage."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hubdist.errors import IntegrityError, UnsafeArchiveError
from hubdist.origins.archive import ArchiveLimits
from hubdist.testing.memory import MemorySink
from tests.support.archives import END, RawZip, blocks, header, member, pax, stage_in, unpack, zipped

GOOD = member("good")
LINK = {"kind": b"2"}


def link(name: str | bytes, target: str | bytes, kind: bytes = b"2") -> bytes:
    return header(name, kind=kind, link=target)


def long_link(name: str, target: str, kind: bytes = b"2") -> bytes:
    return pax(("path", name), ("linkpath", target)) + header("x", kind=kind, link="x")


def realpath_overflow() -> bytes:
    """CVE-2025-4517 and its kin: directories and links so long that realpath gives up, then `..` behind them."""
    component = "d" * 247
    out, path = b"", ""
    for step in "abcdefghijklmnop":
        out += pax(("path", f"{path}{component}")) + header("x", kind=b"5")
        out += pax(("path", f"{path}{step}"), ("linkpath", component)) + header("x", kind=b"2")
        path += f"{component}/"
    chain = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    out += long_link(chain, "../" * 16)
    out += long_link("escape", f"{chain}/../../../../../../../../tmp")
    return out + pax(("path", "escape/hubdist-was-here")) + member("x")


def nested_gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


HOSTILE_TARS: dict[str, bytes] = {
    "symlink to an absolute path": link("a", "/etc") + member("a/passwd"),
    "symlink upwards": link("a", "../..") + member("a/escaped"),
    "symlink inside": link("a", "good"),
    "hard link to a file outside": link("a", "/etc/passwd", b"1"),
    "hard link inside": link("a", "good", b"1"),
    "hard link through a symlink (CVE-2025-4330)": link("s", "..") + link("a", "s/../x", b"1"),
    "symlink with a trailing dot path (CVE-2025-4138)": link("a/b/c", "../../../.."),
    "mode of a file outside (CVE-2024-12718)": link("a", "../victim") + header("a", kind=b"5"),
    "filtered member that is written all the same (CVE-2025-4435)": link("a", "/nowhere") + member("../a"),
    "realpath overflow (CVE-2025-4517)": realpath_overflow(),
    "absolute name": member("/tmp/hubdist-was-here"),
    "absolute name by prefix field": member("x", prefix=b"/tmp"),
    "dot dot": member("../escaped"),
    "dot dot in the middle": member("a/../../escaped"),
    "dot dot at the end": member("a/.."),
    "dot dot by prefix field": member("escaped", prefix=b".."),
    "dot dot behind ./": member("./../escaped"),
    "double slash": member("a//b"),
    "double slash behind the dot": member(".//b"),
    "directory that is the root": header("/", kind=b"5"),
    "directory that is the root behind ./": header(".//", kind=b"5"),
    "directory without a name": header("", kind=b"5"),
    "directory upwards": header("../", kind=b"5"),
    "dot in the middle": member("a/./b"),
    "empty name": member(""),
    "backslash": member("..\\escaped"),
    "drive letter with backslash": member("C:\\escaped"),
    "line feed in the name": member("a\nb"),
    "escape sequence in the name": member("a\x1b[2Jb"),
    "delete character in the name": member("a\x7fb"),
    "name that is not UTF-8": member(b"\xff\xfe"),
    "bytes behind the name's end": member(b"a\0hidden"),
    "name of 256 bytes": pax(("path", "n" * 256)) + member("x"),
    "path of 1100 bytes": pax(("path", "/".join(["n" * 99] * 11))) + member("x"),
    "40 directories deep": pax(("path", "d/" * 40 + "f")) + member("x"),
    "character device": header("a", kind=b"3"),
    "block device": header("a", kind=b"4"),
    "named pipe": header("a", kind=b"6"),
    "unknown type": header("a", kind=b"Z"),
    "GNU sparse type": header("a", kind=b"S"),
    "GNU long link name": header("././@LongLink", size=512, kind=b"K") + bytes(512) + link("a", "b"),
    "GNU multi-volume": header("a", kind=b"M"),
    "pax sparse 0.0": pax(("GNU.sparse.size", "9"), ("GNU.sparse.offset", "1")) + member("x"),
    "pax sparse 0.1": pax(("GNU.sparse.map", "0,1")) + member("x"),
    "pax sparse 1.0": pax(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "1000000000000")) + member("x"),
    "Solaris sparse": pax(("SUN.holesdata", " 0 4 9")) + member("x"),
    "star sparse": pax(("SCHILY.realsize", "1000")) + member("x"),
    "pax path upwards": pax(("path", "../escaped")) + member("x"),
    "pax path absolute": pax(("path", "/tmp/hubdist-was-here")) + member("x"),
    "pax path with a NUL": pax(("path", b"a\0b")) + member("x"),
    "pax path twice": pax(("path", "a"), ("path", "b")) + member("x"),
    "pax path that is empty": pax(("path", "")) + member("x"),
    "pax link path": pax(("linkpath", "/etc/passwd")) + member("x"),
    "pax character set": pax(("hdrcharset", "BINARY"), ("path", b"\xff")) + member("x"),
    "two pax headers": pax(("path", "a")) + pax(("path", "b")) + member("x"),
    "long name and pax path": header("L", size=2, kind=b"L") + blocks(b"a\0") + pax(("path", "b")) + member("x"),
    "two long names": (header("L", size=2, kind=b"L") + blocks(b"a\0")) * 2 + member("x"),
    "long name upwards": header("L", size=11, kind=b"L") + blocks(b"../escaped\0") + member("x"),
    "global pax path": pax(("path", "a"), kind=b"g") + member("x"),
    "global pax size": pax(("size", "1"), kind=b"g") + member("x"),
    "pax size that differs": pax(("size", "1024")) + member("x", b"y" * 512),
    "pax size that is negative": pax(("size", "-1")) + member("x"),
    "pax size beyond all disks": pax(("size", "9" * 18)) + header("x"),
    "pax record with a lying length": header("pax", size=12, kind=b"x") + blocks(b"99 path=abc\n") + member("x"),
    "pax record without a length": header("pax", size=9, kind=b"x") + blocks(b"path=abc\n") + member("x"),
    "pax record of length 0": header("pax", size=4, kind=b"x") + blocks(b"0 a=") + member("x"),
    "pax record without a space": header("pax", size=12, kind=b"x") + blocks(b"a=\na=\na=\na=\n") + member("x"),
    "pax record that ends in its length": header("pax", size=8, kind=b"x") + blocks(b"1 path=a") + member("x"),
    "pax record with a negative length": header("pax", size=10, kind=b"x") + blocks(b"-9 path=a\n") + member("x"),
    "extended header without a member": pax(("path", "a")),
    "negative size": header("x", size=b"\xff" * 12) + blocks(b"data"),
    "size beyond all disks": header("x", size=b"\x80" + b"\x7f" * 11),
    "size that is no number": header("x", size=b"zzzzzzzzzzz\0"),
    "size larger than the archive": header("x", size=1 << 30) + blocks(b"data"),
    "directory with data": header("a/", size=4, kind=b"5") + blocks(b"data"),
    "wrong checksum": b"X" + member("good")[1:],
    "unknown magic": member("x", magic=b"ustar99\0"),
    "the same file twice with other bytes": member("a") + member("a", b"atad"),
    "the same file twice, shorter": member("a") + member("a", b"dat"),
    "the same file twice, longer": member("a") + member("a", b"datadata"),
    "the same file three times, at last with other bytes": member("a") * 2 + member("a", b"atad"),
    "a file that comes again as a directory": member("a") + header("a", kind=b"5"),
    "a directory that comes again as a file": header("a", kind=b"5") + member("a"),
    "dot dot among what macOS adds": member("__MACOSX/../../escaped"),
    "absolute name among what macOS adds": member("/tmp/._hubdist-was-here"),
    "a link among what macOS adds": link("__MACOSX/a", "/etc"),
    "line feed among what macOS adds": member("._a\nb"),
    "names that differ by case": member("README") + member("readme"),
    "names that differ by Unicode case": member("ß".encode()) + member("ss"),
    "a file where a directory is": member("a/b") + member("a"),
    "a directory where a file is": member("a") + member("a/b"),
    "a block of zeros in the middle": member("a") + bytes(512) + member("b"),
}

HOSTILE_ZIPS: dict[str, Callable[[], bytes]] = {
    "dot dot": lambda: RawZip().add("../escaped").build(),
    "absolute name": lambda: RawZip().add("/tmp/hubdist-was-here").build(),
    "backslash": lambda: RawZip().add("..\\escaped").build(),
    "drive letter": lambda: RawZip().add("C:\\escaped").build(),
    "NUL in the name": lambda: RawZip().add(b"a\0b").build(),
    "empty name": lambda: RawZip().add("").build(),
    "name of 300 bytes": lambda: RawZip().add("n" * 300).build(),
    "name that claims to be UTF-8": lambda: RawZip().add(b"\xff\xfe", flags=0x800).build(),
    "name that is not UTF-8": lambda: RawZip().add(b"caf\xe9").build(),
    "symlink": lambda: RawZip().add("a", b"/etc", mode=0o120777).build(),
    "symlink from macOS": lambda: RawZip().add("a", b"/etc", mode=0o120777, system=19).build(),
    "symlink that claims to be from DOS": lambda: RawZip().add("a", b"/etc", mode=0o120777, system=0).build(),
    "symlink by a directory's name": lambda: RawZip().add("a/", b"", mode=0o120777, method=0).build(),
    "device": lambda: RawZip().add("a", mode=0o060644).build(),
    "directory by attributes only": lambda: RawZip().add("a", dos=0x10).build(),
    "directory with data": lambda: RawZip().add("a/", mode=0o040755).build(),
    "directory with hidden data": lambda: RawZip().add("a/", b"", packed=b"hidden", mode=0o040755).build(),
    "encrypted": lambda: RawZip().add(flags=0x1).build(),
    "strongly encrypted": lambda: RawZip().add(flags=0x40).build(),
    "masked headers": lambda: RawZip().add(flags=0x2000).build(),
    "method bzip2": lambda: RawZip().add(method=12).build(),
    "local header names another file": lambda: RawZip().add("good", local_name=b"evil").build(),
    "local header with other sizes": lambda: RawZip().add(local_sizes=(1, 2, 3)).build(),
    "local header with sizes of 0 and no descriptor": lambda: RawZip().add(local_sizes=(0, 0, 0)).build(),
    "descriptor that disagrees": lambda: (
        RawZip().add(flags=8, local_sizes=(0, 0, 0), descriptor=struct.pack("<4s3L", b"PK\7\x08", 1, 2, 3)).build()
    ),
    "descriptor that is missing": lambda: RawZip().add(flags=8, local_sizes=(0, 0, 0)).build(),
    "wrong checksum": lambda: RawZip().add(crc=1).build(),
    "longer than claimed": lambda: RawZip().add(data=b"long" * 100, size=10).build(),
    "shorter than claimed": lambda: RawZip().add(data=b"short", size=1000).build(),
    "bytes behind a member's end": lambda: RawZip().add(packed=b"\x03\0" + b"junk", data=b"").build(),
    "deflate data that is damaged": lambda: RawZip().add(packed=b"\xff\xff\xff").build(),
    "two names by an extra field": lambda: RawZip().add(extra=struct.pack("<2H5s", 0x7075, 5, b"\1abcd")).build(),
    "64-bit size that is cut off": lambda: RawZip().add(size=0xFFFFFFFF, extra=struct.pack("<2HL", 1, 4, 7)).build(),
    "64-bit size that lies": lambda: RawZip().add(size=0xFFFFFFFF, extra=struct.pack("<2HQ", 1, 8, 1 << 62)).build(),
    "members that overlap": lambda: RawZip().add("a").add("b", offset=0, local=False).build(),
    "Fifield's overlapping bomb": lambda: (
        RawZip()
        .add("a", b"\0" * 100_000)
        .add("b", b"\0" * 100_000, offset=0, local=False)
        .add("c", b"\0" * 100_000, offset=0, local=False)
        .build()
    ),
    "member inside the directory": lambda: RawZip().add("a").add("b", offset=40, local=False).build(),
    "offset behind the end": lambda: RawZip().add("a", offset=1 << 30).build(),
    "bytes in front": lambda: b"PK\3\4in front" + RawZip().add("a").build(),
    "bytes in front that are counted in": lambda: RawZip().gap(b"PK\3\4in front").add("a").build(),
    "gap between members": lambda: RawZip().add("a").gap(b"gap").add("b").build(),
    "gap before the directory": lambda: RawZip().add("a").gap(b"gap").build(),
    "member that the directory leaves out": lambda: RawZip().add("aaaaa").add("bbbbb").forget(51).build(count=1),
    "fewer members than claimed": lambda: RawZip().add("a").build(count=2),
    "more members than claimed": lambda: RawZip().add("a").add("b").build(count=1),
    "directory size that lies": lambda: RawZip().add("a").build(size=10),
    "several disks": lambda: RawZip().add("a").build(disk=1),
    "bytes behind the end": lambda: zipped({"a": b"a"}) + b"junk",
    "second end record in the comment": lambda: RawZip().add("a").build(comment=b"PK\5\6" + bytes(18)),
    "the same file twice with other bytes": lambda: RawZip().add("a").add("a", b"atad").build(),
    "a link among what macOS adds": lambda: RawZip().add("__MACOSX/._a", b"/etc", mode=0o120777).build(),
    "nothing but what macOS adds": lambda: RawZip().add("__MACOSX/._a").add(".DS_Store").build(),
    "names that differ by case": lambda: RawZip().add("README").add("readme").build(),
    "a file where a directory is": lambda: RawZip().add("a/b").add("a").build(),
    "no files": lambda: RawZip().build(),
    "two end records that disagree": lambda: RawZip().add("a").build64(narrow_size=10),
    "64-bit end record that claims more": lambda: RawZip().add("a").build64(count=1 << 40),
    "64-bit end record that claims less": lambda: RawZip().add("a").add("b").build64(count=1),
    "64-bit end record that is missing": lambda: RawZip().add("a").build(count=0xFFFF),
}

CASES = (
    {f"tar: {name}": GOOD + data + END for name, data in HOSTILE_TARS.items()}
    | {f"zip: {name}": make() for name, make in HOSTILE_ZIPS.items()}
    | {
        "tar: bytes behind the end": GOOD + END + b"junk",
        "tar: nothing in it": END,
        "tar.gz: bytes behind the end": nested_gzip(GOOD + END) + b"junk",
        "tar.gz: zeros behind the end": nested_gzip(GOOD + END) + bytes(100),
        "tar.gz: wrong checksum": nested_gzip(GOOD + END)[:-8] + b"\1\2\3\4" + nested_gzip(GOOD + END)[-4:],
        "tar.gz: wrong length": nested_gzip(GOOD + END)[:-4] + b"\1\2\3\4",
        "tar.gz: endless zeros behind the end": nested_gzip(GOOD + END + bytes(40 << 20)),
        "tar.gz: a zip inside": nested_gzip(zipped({"a": b"a"})),
    }
)


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


def test_what_the_cases_are_made_of_is_harmless() -> None:
    assert len(CASES) >= 100
    for data in (GOOD + END, GOOD + pax(("path", "b")) + member("x") + END, RawZip().add("a").add("b").build()):
        unpack(data, MemorySink())
    descriptor = struct.pack("<4s3L", b"PK\7\x08", *struct.unpack_from("<3L", RawZip().add().body, 14))
    unpack(RawZip().add(flags=8, local_sizes=(0, 0, 0), descriptor=descriptor).build(), MemorySink())
    unpack(RawZip().add("a").build64(), MemorySink())


@pytest.mark.parametrize("data", CASES.values(), ids=CASES.keys())
def test_a_hostile_archive_is_refused_and_writes_nothing_outside(tmp_path: Path, data: bytes) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    before = snapshot(outside)
    (outside / "store").mkdir()
    with pytest.raises(IntegrityError):
        stage_in(outside / "store", data)
    after = {path: what for path, what in snapshot(outside).items() if not path.startswith("store")}
    assert after == before
    assert list((outside / "store" / "staging").iterdir()) == []
    assert not Path("/tmp/hubdist-was-here").exists()


def test_a_pax_bomb_takes_little_memory() -> None:
    """586 kB of pax records make tarfile take 268 MB."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.pax_headers = {f"k{i:07}": "v" * 100 for i in range(8000)}
        archive.addfile(info)
    bomb = gzip.compress(header("pax", size=600 << 20, kind=b"x") + bytes(600 << 10))
    tracemalloc.start()
    try:
        for data in (out.getvalue(), bomb):
            unpack_quietly(data)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def deep_names(count: int) -> bytes:
    """Each member of 1,000 characters implies 31 directories that no other has."""
    tail = "/" + "/".join(["n" * 31] * 31)
    members = (pax(("path", f"{number:07}{tail}"[:1000])) + header("x") for number in range(count))
    return gzip.compress(b"".join(members) + END, 1)


def large_pax_headers(count: int) -> bytes:
    """Each is below the limit of one header, and full of records that say nothing."""
    one = header("x", size=50_000, kind=b"x") + blocks(b"5 a=\n" * 10_000)
    return gzip.compress(b"".join(one + header(f"f{number}") for number in range(count)) + END, 1)


def large_directory(size: int) -> bytes:
    archive = RawZip().add("a")
    archive.directory += bytes(size)
    return archive.build()


BOMBS = {
    "names that imply directories": lambda: deep_names(1000),
    "global headers": lambda: gzip.compress(pax(("comment", "a"), kind=b"g") * 1001 + GOOD + END, 1),
    "pax records": lambda: large_pax_headers(5),
    "central directory": lambda: large_directory(30 << 20),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_of_headers_are_refused(make: Callable[[], bytes]) -> None:
    data = make()
    limits = ArchiveLimits(
        max_members=1000, max_name_bytes=4 << 20, max_extended_bytes=200_000, max_directory_bytes=1 << 20
    )
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeArchiveError, match=r"more|too large"):
            unpack(data, MemorySink(), limits=limits)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_directory_that_lists_more_than_it_claims_is_not_read_to_its_end() -> None:
    record = RawZip().add("a").directory
    lying = RawZip().add("a")
    lying.directory = record * 300_000
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="lists more"):
            unpack(lying.build(count=1), MemorySink())
        assert tracemalloc.get_traced_memory()[1] < 64 << 20  # the directory itself and the copy that is tested
    finally:
        tracemalloc.stop()


def test_hostile_members_outside_the_inner_directory_are_refused_too() -> None:
    good = member("inner/good")
    for bad in (member("../escaped"), link("a", "/etc"), member("inner2/A") + member("inner2/a")):
        with pytest.raises(UnsafeArchiveError):
            unpack(good + bad + END, MemorySink(), inner="inner")
    with pytest.raises(UnsafeArchiveError):
        unpack(RawZip().add("inner/good").add("../escaped").build(), MemorySink(), inner="inner")


def test_errors_show_the_member_escaped_and_cut() -> None:
    for data in (
        header("a\x1b[2J", kind=b"2") + END,
        pax(("path", "a\x1b" * 400)) + header("x", kind=b"2") + END,
        member("a\x1b" * 40) + END,
        member("b" * 90 + "\n") + END,
        RawZip().add("a\x1b" * 200).build(),
        RawZip().add("a\x1b" * 200, mode=0o120777).build(),
    ):
        with pytest.raises(UnsafeArchiveError) as caught:
            unpack(data, MemorySink())
        text = str(caught.value)
        assert text.isprintable()
        assert "a\\x1b" in text or "bb\\n" in text
        assert len(text) < 600
    with pytest.raises(IntegrityError, match="behind 'good' is damaged"):
        unpack(GOOD + b"X" + member("next")[1:] + END, MemorySink())


def unpack_quietly(data: bytes) -> None:
    try:
        unpack(data, MemorySink())
    except IntegrityError:
        return


def test_bombs_stop_at_the_limit() -> None:
    limits = ArchiveLimits(max_bytes=1 << 20)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(200 << 20))
    for data in (gzip.compress(header("bomb", size=200 << 20) + bytes(200 << 20) + END), out.getvalue()):
        sink = MemorySink()
        with pytest.raises(IntegrityError, match="more than"):
            unpack(data, sink, limits=limits)
        assert sink.files == {}
