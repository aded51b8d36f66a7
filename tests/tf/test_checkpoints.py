"""Whether a checkpoint that TensorFlow wrote is complete, as its own index tells."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from hubdist.errors import IntegrityError
from hubdist.model.savedmodel import check_checkpoint
from tests.support.checkpoints import INDEX, check_index

pytestmark = pytest.mark.tf

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


@pytest.mark.parametrize("shards", [1, 3])
def test_what_tensorflow_wrote_is_complete(checkpoints: Path, shards: int) -> None:
    root = checkpoints / str(shards)
    assert len(listing(root)) == shards + 1
    check_checkpoint(root, listing(root))


@pytest.mark.parametrize(("shards", "missing"), [(1, 0), (3, 0), (3, 1), (3, 2)])
def test_each_missing_shard_is_told(checkpoints: Path, shards: int, missing: int) -> None:
    name = f"variables/variables.data-{missing:05d}-of-{shards:05d}"
    paths = [path for path in listing(checkpoints / str(shards)) if path != name]
    with pytest.raises(IntegrityError, match=name):
        check_checkpoint(checkpoints / str(shards), paths)


def test_shards_of_another_number_do_not_count(checkpoints: Path) -> None:
    paths = [INDEX, *(f"variables/variables.data-{number:05d}-of-00004" for number in range(4))]
    with pytest.raises(IntegrityError, match="00000-of-00003"):
        check_checkpoint(checkpoints / "3", paths)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_truncated_index_is_damaged(checkpoints: Path, tmp_path: Path, shards: int) -> None:
    data = (checkpoints / str(shards) / INDEX).read_bytes()
    paths = listing(checkpoints / str(shards))
    assert check_index(tmp_path, data, paths)
    ends = [*range(0, len(data), 7), *range(len(data) - 60, len(data))]
    assert not any(check_index(tmp_path, data[:end], paths) for end in ends)


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
