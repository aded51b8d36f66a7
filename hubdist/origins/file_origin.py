"""A single file by path or URL, stored as it is: a model of one file, of any framework."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hubdist.model.handle import Handle, Kind
from hubdist.model.source import READ_BYTES, ByteStream, FileSink
from hubdist.model.suffixes import Ending, ending_of
from hubdist.origins.base import Origin
from hubdist.origins.http.stream import HttpStream
from hubdist.origins.local import open_local
from hubdist.remote.gunzip import Gunzip
from hubdist.system.deadline import Deadline, Deadlines

_LITE_NAME = "model.tflite"
"""The file's name where a hub answers to `lite-format=tflite`, because that handle ends in a version."""


class FileOrigin(Origin):
    """The file behind a LOCAL or FILE handle; never unpacked, whatever it holds.

    Args:
        handle: The handle of the file.
        deadlines: Timeouts and retries.
        deadline: When everything must have been read.
    """

    def __init__(self, handle: Handle, deadlines: Deadlines, deadline: Deadline) -> None:
        super().__init__(handle.redacted, deadline)
        self._handle = handle
        self._deadlines = deadlines

    def _fetch(self, sink: FileSink) -> None:
        name = _file_name(self._handle)
        with self._open(name) as stream, sink.open_file(name) as writer:
            while data := stream.read(READ_BYTES):
                writer.write(data)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[ByteStream]:
        if self._handle.kind is Kind.LOCAL:
            with open_local(Path(self._handle.text)) as local:
                yield local
            return
        with HttpStream(self._handle.text, self._deadlines, deadline=self.deadline) as stream:
            # A server may compress the file unasked. For a file that is a gzip itself it may send the same label and
            # mean the file.
            is_gzip = stream.gzipped and not name.lower().endswith(".gz")
            yield Gunzip(stream) if is_gzip else stream


def _file_name(handle: Handle) -> str:
    if handle.kind is Kind.LOCAL:
        return handle.text.rpartition("/")[2]
    path = urlsplit(handle.text).path
    return unquote(path).rpartition("/")[2] if ending_of(path) is Ending.MODEL_FILE else _LITE_NAME
