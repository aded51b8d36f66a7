"""Tells without TensorFlow whether a directory is a SavedModel, a TF1 hub module or something else, and is complete."""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

from hubdist.errors import IntegrityError
from hubdist.model.paths import SAVED_MODEL_FILES

_SHARD = re.compile(r"variables/variables\.data-(\d{5})-of-(\d{5})")
_INDEX = "variables/variables.index"
_FOOTER_BYTES = 48
_TABLE_MAGIC = 0xDB4775248B80FB57
"""Source: tensorflow/core/lib/io/format.h, kTableMagicNumber; the layout is LevelDB's doc/table_format.md."""


class ModelKind(enum.StrEnum):
    """The kinds of directories that hubdist tells apart."""

    SAVED_MODEL = "SavedModel"
    HUB_MODULE = "TF1 hub module"
    OTHER = "other files"


def model_kind(paths: Collection[str]) -> ModelKind:
    """The kind of a directory.

    Args:
        paths: All files below the directory.
    """
    if any(name in paths for name in SAVED_MODEL_FILES):
        return ModelKind.HUB_MODULE if "tfhub_module.pb" in paths else ModelKind.SAVED_MODEL
    return ModelKind.OTHER


def check_checkpoint(root: Path, paths: Collection[str]) -> None:
    """Check that the index of variables of a local SavedModel names only files that exist.

    Args:
        root: The model's directory.
        paths: The files below it.

    Raises:
        IntegrityError: The index is missing or damaged, or a variables file that it needs is not there.
    """
    check_variables(lambda path: (root / path).open("rb"), paths)


def check_variables(open_file: Callable[[str], BinaryIO], paths: Collection[str]) -> None:
    """Check that the index of variables of a SavedModel, wherever it is, names only files that exist.

    Args:
        open_file: Opens a file of the model by its path, for reads at any position.
        paths: The files of the model.

    Raises:
        IntegrityError: The index is missing or damaged, or a variables file that it needs is not there.
    """
    shards = {match for path in paths if (match := _SHARD.fullmatch(path))}
    if _INDEX not in paths:
        if shards:
            raise IntegrityError(f"the model is incomplete: {_INDEX} is missing")
        return
    with open_file(_INDEX) as index:
        count = _shard_count(index)
    for number in range(count):
        name = f"variables/variables.data-{number:05d}-of-{count:05d}"
        if name not in paths:
            raise IntegrityError(f"the model is incomplete: {name} is missing")


def _shard_count(file: BinaryIO) -> int:
    """The number of data files of a tensor bundle: `num_shards` of its header, the value of the table's first key."""
    size = file.seek(0, 2)
    if size < _FOOTER_BYTES:
        raise IntegrityError(f"{_INDEX} is damaged: {size} bytes")
    file.seek(size - _FOOTER_BYTES)
    footer = file.read(_FOOTER_BYTES)
    if struct.unpack("<Q", footer[-8:])[0] != _TABLE_MAGIC:
        raise IntegrityError(f"{_INDEX} is damaged: it does not end as a table does")
    try:
        at = 0
        for _ in range(2):  # skip the handle (offset, length) of the metaindex block
            _, at = _varint(footer, at)
        offset, at = _varint(footer, at)
        length, at = _varint(footer, at)
        first_block_place = _first_value(_read_block(file, offset, length, size))
        offset, at = _varint(first_block_place, 0)
        length, at = _varint(first_block_place, at)
        return _num_shards(_first_value(_read_block(file, offset, length, size)))
    except IndexError:
        raise IntegrityError(f"{_INDEX} is damaged") from None


def _read_block(file: BinaryIO, offset: int, length: int, size: int) -> bytes:
    if offset + length > size:
        raise IndexError
    file.seek(offset)
    return file.read(length)


def _first_value(block: bytes) -> bytes:
    """The value of a table block's first record: three varints (shared, unshared, value bytes), key, value."""
    _, at = _varint(block, 0)
    key_bytes, at = _varint(block, at)
    value_bytes, at = _varint(block, at)
    return block[at + key_bytes : at + key_bytes + value_bytes]


def _num_shards(header: bytes) -> int:
    """Field 1 of BundleHeaderProto (tensorflow/core/protobuf/tensor_bundle.proto); it comes first."""
    if header[0] != 0x08:
        raise IntegrityError(f"{_INDEX} is damaged: its header names no number of files")
    count, _ = _varint(header, 1)
    if not 0 < count < 100_000:
        raise IntegrityError(f"{_INDEX} is damaged: it claims {count} files")
    return count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise IndexError
