"""Indices of checkpoints: one without tensors, and the check of one, whatever bytes it has."""

from __future__ import annotations

import struct
from pathlib import Path

from hubdist.errors import IntegrityError
from hubdist.model.savedmodel import check_checkpoint

INDEX = "variables/variables.index"


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


def variables_index(shards: int) -> bytes:
    """A tensor bundle's index without tensors: its table's first value is the header, with the number of files."""
    header = b"\x08" + bytes([shards])
    block = bytes([0, 0, len(header)]) + header
    place = bytes([0, len(block)])
    index = bytes([0, 0, len(place)]) + place
    footer = bytes([0, 0, len(block), len(index)]).ljust(40, b"\0")
    return block + index + footer + struct.pack("<Q", 0xDB4775248B80FB57)
