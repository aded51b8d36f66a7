"""Nothing that a reader is about to read is removed, whoever collects, evicts and verifies at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.system.directories import remove_tree
from tests.support.gc_against_readers import stress, wrong


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    remove_tree(tmp_path)


@pytest.mark.timeout(120)
def test_no_read_fails_or_gives_wrong_bytes_while_others_collect(root: Path) -> None:
    said = stress(root, processes=4, operations=600, grace_s=1.5)
    assert not wrong(said), said
    assert said["read"] > 100
    assert said["  evicted"] > 20
    assert said["  marked"] > 20
