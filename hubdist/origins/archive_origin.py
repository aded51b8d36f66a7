"""Archives by URL or path, also by the hubs' own protocol, unpacked while they stream in.

Source: TensorFlow Hub's hosting protocol, https://www.tensorflow.org/hub/hosting: a hub answers
`<handle>?tf-hub-format=compressed` with a tar.gz whose root is the model's directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hubdist.errors import IntegrityError
from hubdist.model.access import OriginAccess
from hubdist.model.handle import Handle, Kind
from hubdist.model.hf_names import SCHEME
from hubdist.model.source import ByteStream, FileSink
from hubdist.origins.archive import ArchiveFormat, detect_format, other_format, unpack_stream, unpack_zip
from hubdist.origins.base import Origin
from hubdist.origins.http.stream import HttpStream
from hubdist.origins.huggingface import open_file
from hubdist.origins.local import open_local
from hubdist.remote.compressed_objects import Inflated, PrefixedStream
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.disk_space import Scratch

_HEAD_BYTES = 512
_READ_BYTES = 1 << 20


class ArchiveOrigin(Origin):
    """The archive behind a HUB, ARCHIVE, MEMBER or LOCAL handle.

    Args:
        handle: The handle of the archive, or of a directory in the archive.
        deadlines: Timeouts and retries.
        scratch: Keeps a remote zip while it is read, because zip needs a seekable file.
        deadline: When everything must have been read.
        max_bytes: Most bytes of an archive on gs:// that is stored compressed once more; None: no limit.
        access: The headers and logins of this node; None for none.
    """

    def __init__(
        self,
        handle: Handle,
        deadlines: Deadlines,
        scratch: Scratch,
        deadline: Deadline,
        *,
        max_bytes: int | None = None,
        access: OriginAccess | None = None,
    ) -> None:
        super().__init__(handle.redacted, deadline)
        self._access = access
        self._inner = handle.inner
        self._wanted = handle.format
        self._base = handle.base or handle
        self._deadlines = deadlines
        self._max_bytes = max_bytes
        self._scratch = scratch

    def _fetch(self, sink: FileSink) -> None:
        if self._base.kind is Kind.LOCAL:
            with open_local(Path(self._base.text)) as local:
                self._unpack(local, sink, local.file)
        elif self._base.scheme in ("http", "https"):
            with HttpStream(self._url(), self._deadlines, deadline=self.deadline, access=self._access) as stream:
                # The label of a .tar.gz and a gzip around any archive look alike. Decompressed once, both are archives.
                content = Inflated(stream, self._base.redacted) if stream.gzipped else stream
                self._unpack(content, sink, None)
        elif self._base.scheme == SCHEME:
            with open_file(self._base, self._deadlines, self._scratch, self.deadline) as local:
                self._unpack(local, sink, local.file)
        else:
            from hubdist.origins.directory import open_object

            opened = open_object(self._base, self._deadlines, self.deadline, max_bytes=self._max_bytes)
            with opened as stream:
                self._unpack(stream, sink, None)

    def _url(self) -> str:
        url = self._base.text
        if self._base.kind is Kind.HUB and not self._wanted:
            url += ("&" if "?" in url else "?") + "tf-hub-format=compressed"
        return url

    def _unpack(self, stream: ByteStream, sink: FileSink, file: BinaryIO | None) -> None:
        head = _read_head(stream)
        found = detect_format(head)
        if found is None:
            raise self._not_an_archive(head)
        if self._wanted and (found is ArchiveFormat.ZIP) != (self._wanted == "zip"):
            raise IntegrityError(f"{self._base.redacted} is a {found} archive, the handle says {self._wanted}")
        if found is not ArchiveFormat.ZIP:
            unpack_stream(PrefixedStream(head, stream), found, sink, inner=self._inner)
        elif file is not None:
            file.seek(0)
            unpack_zip(file, sink, inner=self._inner)
        else:
            with self._spool(head, stream) as spooled:
                unpack_zip(spooled, sink, inner=self._inner)

    def _not_an_archive(self, head: bytes) -> IntegrityError:
        other = other_format(head)
        advice = "An archive's name decides that it is unpacked: rename a file that is not an archive."
        if other is not None:
            advice = "Pack it as tar, tar.gz or zip."
        elif self._base.kind is Kind.HUB:
            advice = (
                "Where the last name of a URL has no known ending, a hub's archive is asked for. For a single file"
                " write a URL that ends in its name, such as model.onnx."
            )
        what = f"it begins with {head[:16]!r}" if other is None else f"it is packed by {other}"
        return IntegrityError(f"{self._base.redacted} is not a tar, tar.gz or zip: {what}", advice=advice)

    @contextlib.contextmanager
    def _spool(self, head: bytes, stream: ByteStream) -> Iterator[BinaryIO]:
        with self._scratch.open_file("archive.zip") as spooled:
            spooled.write(head)
            while data := stream.read(_READ_BYTES):
                spooled.write(data)
            spooled.file.seek(0)
            yield spooled.file


def _read_head(stream: ByteStream) -> bytes:
    head = b""
    while len(head) < _HEAD_BYTES and (data := stream.read(_HEAD_BYTES - len(head))):
        head += data
    return head
