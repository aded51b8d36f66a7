"""One file, by path or URL, as it is: a model of one file, of any framework."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hubdist.config.schema import Config
from hubdist.model.handle import Handle, Kind
from hubdist.model.source import READ_BYTES, ByteStream, FileSink
from hubdist.model.suffixes import Ending, ending_of
from hubdist.origins.archive_origin import http_rules
from hubdist.origins.base import Origin
from hubdist.origins.http.stream import HttpStream
from hubdist.origins.local import open_local
from hubdist.remote.gunzip import Gunzip
from hubdist.system.deadline import Deadline

_LITE_NAME = "model.tflite"
"""What a hub answers with to `lite-format=tflite`, whose handle ends in a version."""


class FileOrigin(Origin):
    """The file behind a LOCAL or FILE handle; never unpacked, whatever it holds.

    Args:
        handle: What to read.
        config: Deadlines and retries.
        deadline: When all of it must have been read.
    """

    def __init__(self, handle: Handle, config: Config, deadline: Deadline) -> None:
        super().__init__(handle.redacted, deadline)
        self._handle = handle
        self._config = config

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
        with HttpStream(self._handle.text, http_rules(self._config, self.deadline)) as stream:
            # A server may send the file packed although nobody asked. Of a file that is packed by itself it says the
            # same, and means the file.
            packed = stream.gzipped and not name.lower().endswith(".gz")
            yield Gunzip(stream) if packed else stream


def _file_name(handle: Handle) -> str:
    if handle.kind is Kind.LOCAL:
        return handle.text.rpartition("/")[2]
    path = urlsplit(handle.text).path
    return unquote(path).rpartition("/")[2] if ending_of(path) is Ending.MODEL_FILE else _LITE_NAME
