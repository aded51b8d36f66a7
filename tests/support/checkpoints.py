"""Checks of a checkpoint's index, whatever bytes the index has."""

from __future__ import annotations

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
