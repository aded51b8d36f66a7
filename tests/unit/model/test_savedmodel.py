"""What a directory is, and whether its checkpoint is complete."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hubdist.errors import IntegrityError
from hubdist.model.savedmodel import ModelKind, check_checkpoint, model_kind

INDEX = "variables/variables.index"

_WRITE_SHARDS = """
import sys
import tensorflow as tf

root = sys.argv[1]
for shards in (1, 3):
    parts = []
    for number in range(shards):
        parts.append(f"{root}/part-{shards}-{number}")
        names = [f"v{number}_{index}" for index in range(40)]
        tensors = [tf.random.normal((50,)) for _ in names]
        tf.raw_ops.SaveV2(prefix=parts[-1], tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    target = f"{root}/{shards}/variables/variables"
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=target, delete_old_dirs=False)
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories `1` and `3`, each with variables that TensorFlow wrote into so many files."""
    root = tmp_path_factory.mktemp("checkpoints")
    for shards in (1, 3):
        (root / str(shards) / "variables").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_SHARDS, str(root)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return root


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        ([], ModelKind.OTHER),
        (["model.onnx"], ModelKind.OTHER),
        (["variables/variables.index"], ModelKind.OTHER),
        (["tfhub_module.pb"], ModelKind.OTHER),
        (["folder/saved_model.pb"], ModelKind.OTHER),
        (["Saved_Model.pb"], ModelKind.OTHER),
        (["saved_model.pb"], ModelKind.SAVED_MODEL),
        (["saved_model.pbtxt", "assets/a"], ModelKind.SAVED_MODEL),
        (["saved_model.pb", "fingerprint.pb", "keras_metadata.pb"], ModelKind.SAVED_MODEL),
        (["saved_model.pb", "tfhub_module.pb"], ModelKind.HUB_MODULE),
        (["saved_model.pbtxt", "tfhub_module.pb"], ModelKind.HUB_MODULE),
    ],
)
def test_the_kind_of_a_directory(paths: list[str], kind: ModelKind) -> None:
    assert model_kind(paths) is kind
    assert model_kind(set(paths)) is kind


def test_a_model_without_variables_is_complete(tmp_path: Path) -> None:
    check_checkpoint(tmp_path, ["saved_model.pb"])


def test_variables_without_their_index_are_incomplete(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="index is missing"):
        check_checkpoint(tmp_path, ["saved_model.pb", "variables/variables.data-00000-of-00001"])


@pytest.mark.tf
@pytest.mark.parametrize("shards", [1, 3])
def test_what_tensorflow_wrote_is_complete(checkpoints: Path, shards: int) -> None:
    root = checkpoints / str(shards)
    assert len(listing(root)) == shards + 1
    check_checkpoint(root, listing(root))


@pytest.mark.tf
@pytest.mark.parametrize(("shards", "missing"), [(1, 0), (3, 0), (3, 1), (3, 2)])
def test_each_missing_shard_is_told(checkpoints: Path, shards: int, missing: int) -> None:
    name = f"variables/variables.data-{missing:05d}-of-{shards:05d}"
    paths = [path for path in listing(checkpoints / str(shards)) if path != name]
    with pytest.raises(IntegrityError, match=name):
        check_checkpoint(checkpoints / str(shards), paths)


@pytest.mark.tf
def test_shards_of_another_number_do_not_count(checkpoints: Path) -> None:
    paths = [INDEX, *(f"variables/variables.data-{number:05d}-of-00004" for number in range(4))]
    with pytest.raises(IntegrityError, match="00000-of-00003"):
        check_checkpoint(checkpoints / "3", paths)


def check_index(root: Path, data: bytes, paths: list[str]) -> bool:
    """Whether an index passes; any error but IntegrityError gets out."""
    (root / INDEX).parent.mkdir(exist_ok=True)
    (root / INDEX).write_bytes(data)
    try:
        check_checkpoint(root, paths)
    except IntegrityError as error:
        assert "incomplete" in str(error) or "damaged" in str(error)
        return False
    return True


@pytest.mark.tf
@pytest.mark.parametrize("shards", [1, 3])
def test_a_truncated_index_is_damaged(checkpoints: Path, tmp_path: Path, shards: int) -> None:
    data = (checkpoints / str(shards) / INDEX).read_bytes()
    paths = listing(checkpoints / str(shards))
    assert check_index(tmp_path, data, paths)
    ends = [*range(0, len(data), 7), *range(len(data) - 60, len(data))]
    assert not any(check_index(tmp_path, data[:end], paths) for end in ends)


@pytest.mark.tf
@pytest.mark.parametrize("shards", [1, 3])
def test_flipped_bits_in_an_index_raise_nothing_unknown(checkpoints: Path, tmp_path: Path, shards: int) -> None:
    data = (checkpoints / str(shards) / INDEX).read_bytes()
    paths = listing(checkpoints / str(shards))
    footer = range(8 * (len(data) - 48), 8 * len(data))
    others = random.Random(1).sample(range(8 * (len(data) - 48)), 1000)
    for bit in [*footer, *range(8 * 64), *others]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        check_index(tmp_path, bytes(flipped), paths)


def varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def footer(*numbers: int) -> bytes:
    """The end of a table: metaindex offset and length, index offset and length, in varints."""
    places = b"".join(map(varint, numbers))
    return places.ljust(40, b"\0")[:40] + struct.pack("<Q", 0xDB4775248B80FB57)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(48), id="zeros"),
        pytest.param(footer(0, 0, 0, 0), id="points at itself with no bytes"),
        pytest.param(footer(0, 0, 2**63, 10), id="begins beyond what a file can have"),
        pytest.param(footer(0, 0, 2**64 - 1, 2**64 - 1), id="greatest numbers"),
        pytest.param(footer(0, 0, 10**6, 10), id="begins behind the end"),
        pytest.param(b"\xff" * 40 + footer()[-8:], id="numbers without an end"),
    ],
)
def test_hostile_footers_are_damage(tmp_path: Path, data: bytes) -> None:
    assert not check_index(tmp_path, data, [INDEX])


def test_random_bytes_before_a_right_end_are_damage_at_most(tmp_path: Path) -> None:
    source = random.Random(2)
    for _ in range(500):
        size = source.randrange(200)
        data = source.randbytes(size) + footer(0, 0, source.randrange(size + 1), source.randrange(100))
        check_index(tmp_path, data, [INDEX])
