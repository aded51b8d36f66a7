"""On file systems that share blocks between files, what a new version shares with an older one takes no space."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.model.chunks import cut_chunks
from hubdist.model.digest_sink import DigestSink
from hubdist.model.manifest import BLOCK_BYTES, Manifest
from hubdist.store.older_blocks import OlderBlocks
from hubdist.store.store import Store
from tests.support.store_models import content, publish

pytestmark = pytest.mark.root

MIB = 1 << 20
MAKE = {"btrfs": ["mkfs.btrfs", "-q"], "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "ext4": ["mkfs.ext4", "-q"]}


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of its own, of the kind that the test names."""
    command = MAKE[request.param]
    if os.geteuid() != 0 or shutil.which(command[0]) is None:
        pytest.skip(f"needs root and {command[0]}")
    image, mount = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    mount.mkdir()
    subprocess.run([*command, str(image)], check=True, timeout=60, capture_output=True)
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(mount)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount {request.param}: {done.stderr}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True, timeout=60, capture_output=True)


def manifest_of(data: bytes) -> Manifest:
    sink = DigestSink()
    with sink.open_file("weights") as file:
        file.write(data)
    return sink.finish()


def used(disk: Path) -> int:
    descriptor = os.open(disk, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    subprocess.run(["sync", "-f", str(disk)], check=True, timeout=60)
    space = os.statvfs(disk)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


@pytest.mark.parametrize(("disk", "shares"), [("btrfs", True), ("xfs", True), ("ext4", False)], indirect=["disk"])
@pytest.mark.parametrize("damaged", [False, True])
def test_blocks_of_an_older_version_are_shared_and_checked(disk: Path, shares: bool, damaged: bool) -> None:
    store = Store(disk / "store")
    old = random.Random(1).randbytes(64 * MIB + 100)
    new = old[: 10 * MIB] + b"changed" + old[10 * MIB + 7 :]
    with publish(store, {"weights": old}) as snapshot:
        file = snapshot.path / "weights"
        if damaged:
            file.chmod(0o600)
            with file.open("r+b") as opened:
                opened.seek(20 * MIB + 5)
                opened.write(b"damage")
            file.chmod(0o444)
    before = used(disk)
    manifest = manifest_of(new)
    with store.stage_chunks(manifest) as stage:
        with OlderBlocks(store, manifest) as older:
            left = [chunk for chunk in cut_chunks(manifest, BLOCK_BYTES) if not older.take(chunk, stage)]
        assert [chunk.index for chunk in left] == ([10, 20] if damaged else [10])
        for chunk in left:
            (piece,) = chunk.pieces
            stage.write_chunk(chunk, memoryview(new[piece.start : piece.end]))
        with store.publish(stage) as snapshot:
            assert content(snapshot.path) == {"weights": new}
            assert (used(disk) - before < 8 * MIB) == shares
            assert store.evict(store.digests()[0]) or store.evict(store.digests()[1])
            assert snapshot.find_damage() is None
