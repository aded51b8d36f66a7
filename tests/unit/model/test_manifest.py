"""Digests and manifests: one name for one content, and nothing trusted that was read."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.errors import DigestMismatchError, HandleError, HubdistError, IntegrityError, UnsafeArchiveError
from hubdist.model.manifest import BLOCK_BYTES, Digest, Entry, EntryDigester, Manifest, digest_block
from hubdist.model.paths import PathSet, check_entry_path

GOLDEN = Path(__file__).parent / "golden" / "manifest-2.json"
GOLDEN_FILES = {
    "assets/größe.txt": b"null\neins\nzwei\n",
    "empty.bin": b"",
    "saved_model.pb": bytes(range(256)) * 40,
    "variables/variables.data-00000-of-00001": b"\x5a" * (BLOCK_BYTES + 7),
}
GOLDEN_DIGEST = "sha256:07c8ce9c5bb78e8061cacb998b930e859e21432119bc471c301bd2f59786f3ff"


def entry(path: str, data: bytes) -> Entry:
    digester = EntryDigester(path)
    digester.update(data)
    return digester.entry()


def manifest_of(files: dict[str, bytes]) -> Manifest:
    return Manifest.of(entry(path, data) for path, data in files.items())


def sized(path: str, size: int) -> Entry:
    """An entry of which only path and size matter."""
    return Entry(path, size, Digest(f"{0:064x}"), bytes(32 * -(-size // BLOCK_BYTES)))


_NAMES = st.text(st.sampled_from("abcXYZ.-_ é0"), min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests of small files; paths that clash with earlier ones are left out."""
    known = PathSet()
    entries = []
    for path in draw(st.lists(_PATHS, min_size=1, max_size=6)):
        try:
            known.add_file(path)
        except UnsafeArchiveError:
            continue
        entries.append(entry(path, draw(st.binary(max_size=40))))
    return Manifest.of(entries)


# Digest


@given(st.binary(min_size=32, max_size=32))
@settings(deadline=None)
def test_a_digest_is_parsed_back_from_its_print(value: bytes) -> None:
    digest = Digest(value.hex())
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "0" * 64,
        f"sha256:{'0' * 63}",
        f"sha256:{'0' * 65}",
        f"sha256:{'A' * 64}",
        f"sha256:{'g' * 64}",
        f"sha256:{'0' * 64}\n",
        f" sha256:{'0' * 64}",
        f"md5:{'0' * 64}",
        f"SHA256:{'0' * 64}",
    ],
)
def test_other_texts_are_no_digest(text: str) -> None:
    with pytest.raises(HandleError, match="is not a digest"):
        Digest.parse(text)


# Manifest


def test_the_digest_follows_the_documented_formula() -> None:
    lines = "".join(
        f"{hashlib.sha256(data).hexdigest()} {len(data)} {path}\n" for path, data in sorted(GOLDEN_FILES.items())
    )
    assert manifest_of(GOLDEN_FILES).digest.value == hashlib.sha256(lines.encode()).hexdigest()


def test_the_order_in_which_files_come_does_not_matter() -> None:
    backwards = dict(reversed(GOLDEN_FILES.items()))
    assert manifest_of(backwards) == manifest_of(GOLDEN_FILES)


def test_the_golden_manifest_of_format_2_can_still_be_read() -> None:
    manifest = Manifest.from_json(GOLDEN.read_bytes())
    assert manifest == manifest_of(GOLDEN_FILES)
    assert str(manifest.digest) == GOLDEN_DIGEST


def test_format_2_is_still_written_byte_for_byte() -> None:
    assert manifest_of(GOLDEN_FILES).to_json() == GOLDEN.read_bytes()


@given(manifests())
@settings(deadline=None)
def test_a_manifest_is_read_back_from_its_json(manifest: Manifest) -> None:
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.digest == manifest.digest


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_flipped_bytes_give_an_error_or_the_same_manifest(data: st.DataObject) -> None:
    text = bytearray(GOLDEN.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        manifest = Manifest.from_json(bytes(text))
    except HubdistError:
        return
    assert str(manifest.digest) == GOLDEN_DIGEST
    assert manifest.entries == Manifest.from_json(GOLDEN.read_bytes()).entries or _same_but_blocks(manifest)


def _same_but_blocks(manifest: Manifest) -> bool:
    """Block digests are not part of the name: a flip there is found when the block is checked."""
    golden = manifest_of(GOLDEN_FILES)
    return [(entry.path, entry.size, entry.digest) for entry in manifest.entries] == [
        (entry.path, entry.size, entry.digest) for entry in golden.entries
    ]


@given(st.integers(0, GOLDEN.stat().st_size - 2))
@settings(deadline=None)
def test_a_cut_manifest_is_refused(length: int) -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_json(GOLDEN.read_bytes()[:length])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_PLACES = st.sampled_from(
    [
        (),
        ("hubdist_manifest",),
        ("digest",),
        ("block_bytes",),
        ("files",),
        ("files", 0),
        ("files", 0, "path"),
        ("files", 0, "size"),
        ("files", 0, "sha256"),
        ("files", 0, "blocks"),
    ]
)


@given(_PLACES, _JSON | st.sampled_from([float("inf"), float("nan"), -1, 10**30, "\ud800", "../x", "A" * 300]))
@settings(max_examples=300, deadline=None)
def test_another_value_anywhere_raises_nothing_but_hubdist_errors(place: tuple[str | int, ...], value: object) -> None:
    document = json.loads(GOLDEN.read_bytes())
    if place:
        parent = document
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = value
    else:
        document = value
    try:
        manifest = Manifest.from_json(json.dumps(document).encode())
    except HubdistError:
        return
    assert str(manifest.digest) == GOLDEN_DIGEST


def test_deeply_nested_json_is_refused_and_does_not_exhaust_the_stack() -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_json(b"[" * 100_000)


@pytest.mark.parametrize("change", ["hubdist_manifest", "block_bytes"])
def test_a_manifest_of_another_format_is_refused(change: str) -> None:
    document = json.loads(GOLDEN.read_bytes())
    document[change] *= 2
    with pytest.raises(IntegrityError, match="another version"):
        Manifest.from_json(json.dumps(document).encode())


def test_a_manifest_that_claims_another_digest_is_refused() -> None:
    document = json.loads(GOLDEN.read_bytes())
    document["digest"] = f"sha256:{'0' * 64}"
    with pytest.raises(DigestMismatchError) as caught:
        Manifest.from_json(json.dumps(document).encode())
    assert caught.value.actual == GOLDEN_DIGEST


def test_too_few_block_digests_are_refused() -> None:
    document = json.loads(GOLDEN.read_bytes())
    document["files"][-1]["blocks"] = document["files"][-1]["blocks"][:64]
    with pytest.raises(IntegrityError, match="do not fit its size"):
        Manifest.from_json(json.dumps(document).encode())


def test_an_unsafe_path_in_a_manifest_is_refused() -> None:
    with pytest.raises(UnsafeArchiveError):
        Manifest.of([entry("../outside", b"")])


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b/c.txt",
        ".hidden",
        "...",
        "a b",
        "größe/模型.pb",
        "a:b",
        "x" * 255,
        "/".join(["d"] * 32),
        "-rf",
        "~",
    ],
)
def test_portable_paths_are_safe(path: str) -> None:
    assert check_entry_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        ".",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "..\\a",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "\x1b[31m",
        "\ud800",
        "x" * 256,
        "é" * 128,
        "/".join(["d"] * 33),
        "/".join(["x" * 200] * 6),
    ],
)
def test_paths_that_leave_the_directory_or_are_not_portable_are_refused(path: str) -> None:
    with pytest.raises(UnsafeArchiveError):
        check_entry_path(path)


def test_a_refused_path_is_shown_cut_and_escaped() -> None:
    with pytest.raises(UnsafeArchiveError) as caught:
        check_entry_path("\x1b" + "y" * 5000)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"),
        ("a", "A"),
        ("a/b", "A/c"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("caf\u00c9/a", "cafe\u0301/b"),
    ],
)
def test_files_that_clash_are_refused(first: str, second: str) -> None:
    paths = PathSet()
    paths.add_file(first)
    with pytest.raises(UnsafeArchiveError, match="clash"):
        paths.add_file(second)


def test_a_file_and_a_directory_of_one_name_clash_in_either_order() -> None:
    paths = PathSet()
    paths.add_directory("a")
    paths.add_file("b")
    with pytest.raises(UnsafeArchiveError, match="clash"):
        paths.add_file("a")
    with pytest.raises(UnsafeArchiveError, match="clash"):
        paths.add_directory("b")


def test_a_directory_may_be_named_again_and_holds_several_files() -> None:
    paths = PathSet()
    paths.add_file("a/b")
    paths.add_directory("a")
    paths.add_directory("a")
    paths.add_file("a/c")


# Blocks


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_file_fed_in_any_splits_gives_the_same_entry(data: st.DataObject) -> None:
    content = bytes(range(251)) * ((2 * BLOCK_BYTES + 1000) // 251)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    digester = EntryDigester("f")
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        digester.update(memoryview(content)[start:end])
    assert digester.entry() == entry("f", content)


def test_a_block_digest_is_that_of_b3sum() -> None:
    assert digest_block(b"abc").hex() == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


def test_an_entry_holds_the_digest_of_each_block() -> None:
    content = b"a" * BLOCK_BYTES + b"b" * BLOCK_BYTES + b"c"
    blocks = [content[:BLOCK_BYTES], content[BLOCK_BYTES : 2 * BLOCK_BYTES], b"c"]
    assert entry("f", content).block_digests == b"".join(digest_block(block) for block in blocks)


@pytest.mark.parametrize("size", [0, BLOCK_BYTES, 2 * BLOCK_BYTES])
def test_a_file_of_whole_blocks_has_no_empty_last_one(size: int) -> None:
    assert len(entry("f", bytes(size)).block_digests) == 32 * (size // BLOCK_BYTES)


# Trust


def test_whether_blocks_are_proven_is_no_part_of_a_manifest_but_travels_with_it() -> None:
    manifest = manifest_of(GOLDEN_FILES)
    unproven = manifest.unproven()
    assert manifest.blocks_proven
    assert not unproven.blocks_proven
    assert unproven == manifest
    assert hash(unproven) == hash(manifest)
    assert (unproven.digest, unproven.to_json()) == (manifest.digest, manifest.to_json())
    assert not pickle.loads(pickle.dumps(unproven)).blocks_proven
    assert pickle.loads(pickle.dumps(manifest)).blocks_proven
