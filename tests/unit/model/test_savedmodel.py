"""What a directory is, and whether its checkpoint is complete."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from hubdist.errors import IntegrityError
from hubdist.model.savedmodel import ModelKind, check_checkpoint, model_kind
from tests.support.checkpoints import INDEX, check_index


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
