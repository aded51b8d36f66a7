"""Downloads of several files end together: with their reader, with a refusal, and not at all where they hang."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hubdist.errors import AccessDeniedError, TransferTimeoutError
from hubdist.origins.huggingface.downloads import Downloads
from hubdist.system.deadline import Deadline, Deadlines


class Files:
    """What is downloaded: `first` comes or is refused once `late` has begun, and `late` takes half a second.

    Args:
        folder: Where the files go.
        error: What the download of `first` raises; None if it comes.
    """

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self._folder = folder
        self._error = error
        self.late_began, self.late_ended = threading.Event(), threading.Event()

    def download(self, name: str) -> Path:
        if name == "late":
            self.late_began.set()
            time.sleep(0.5)  # longer than an error takes that waits for nobody
            self.late_ended.set()
        else:
            assert self.late_began.wait(20)
            if self._error is not None:
                raise self._error
        path = self._folder / name
        path.write_text(name)
        return path


def downloads(folder: Path, stall_s: float = 60) -> Downloads:
    class Scratch:
        def count(self, _: int) -> None: ...

    scratch: Any = Scratch()
    return Downloads(folder, scratch, Deadlines(stall_s=stall_s), Deadline(60), "hf://acme/model")


def test_a_refusal_is_told_when_the_other_downloads_have_ended(tmp_path: Path) -> None:
    files = Files(tmp_path, AccessDeniedError("accept its terms"))
    with pytest.raises(AccessDeniedError):
        list(downloads(tmp_path).each(["first", "late"], files.download))
    assert files.late_ended.is_set()


def test_a_reader_that_stops_ends_the_other_downloads(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with contextlib.closing(downloads(tmp_path).each(["first", "late"], files.download)) as each:
        assert next(each) == ("first", tmp_path / "first")
    assert files.late_ended.is_set()


def test_a_download_that_hangs_is_left_behind_at_once(tmp_path: Path) -> None:
    ended = threading.Event()

    def hang(_: str) -> Path:
        ended.wait(20)
        return tmp_path

    with pytest.raises(TransferTimeoutError, match="gave nothing"):
        list(downloads(tmp_path, stall_s=0.2).each(["first", "second"], hang))
    left = [thread for thread in threading.enumerate() if thread.name == "hubdist-download"]
    ended.set()
    for thread in left:
        thread.join(20)
    assert len(left) == 2
