"""Repositories of Hugging Face as origins: the files of one commit, checked against the digests that the hub gives."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from pathlib import Path

from hubdist.errors import DigestMismatchError, HubdistError, LengthMismatchError, ModelNotFoundError
from hubdist.model.handle import Handle
from hubdist.model.hf_names import RepoName
from hubdist.model.source import READ_BYTES, FileSink, FileWriter
from hubdist.origins.base import Origin
from hubdist.origins.huggingface.downloads import Downloads
from hubdist.origins.huggingface.hub import HfHub, HubFile
from hubdist.origins.local import LocalStream, open_local
from hubdist.store.store import Store
from hubdist.store.stored_files import StoredFiles
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.disk import disk_errors
from hubdist.system.disk_space import Scratch

_FOLDER = "huggingface"


class HuggingFaceOrigin(Origin):
    """A repository of Hugging Face, or a directory or file in it.

    Files are downloaded several at a time, and written to the sink in order of path while others still come.

    Args:
        handle: A handle of kind HUGGING_FACE. A branch or tag is resolved to its commit first.
        deadlines: Timeouts and retries.
        scratch: A private directory for the downloads, with the budget that counts their bytes.
        deadline: When everything must have been read.
        store: Files that it has, by the hub's digests, are not downloaded again; None downloads all.

    Raises:
        HandleError: huggingface_hub is not installed.
    """

    def __init__(
        self, handle: Handle, deadlines: Deadlines, scratch: Scratch, deadline: Deadline, store: Store | None = None
    ) -> None:
        super().__init__(handle.redacted, deadline)
        self._name = RepoName.parse(handle.text)
        self._hub = HfHub(self._name, deadlines, deadline)
        self._deadlines = deadlines
        self._scratch = scratch
        self._store = store

    def _fetch(self, sink: FileSink) -> None:
        hub = _at_commit(self._hub, self._deadlines, self.deadline)
        literal = None if self._name.path else self.selection.literal_paths
        files = hub.files() if literal is None else hub.these_files(literal)
        root = _root_of(self._name.path, files)
        chosen = [file for file in files if self.selection.accepts(file.path.removeprefix(root))]
        with contextlib.ExitStack() as held:
            stored = {} if self._store is None else _stored(StoredFiles(self._store), chosen, held)
            missing = [file for file in chosen if file.path not in stored]
            downloads = _downloaded(hub, missing, self._deadlines, self._scratch, self.deadline)
            held.enter_context(contextlib.closing(downloads))
            for file in chosen:
                path = stored[file.path] if file.path in stored else next(downloads)[1]
                with open_local(path) as content, sink.open_file(file.path.removeprefix(root)) as writer:
                    _copy_checked(content, file, writer)
            next(downloads, None)


@contextlib.contextmanager
def open_file(handle: Handle, deadlines: Deadlines, scratch: Scratch, deadline: Deadline) -> Iterator[LocalStream]:
    """One file of a repository, such as an archive, downloaded for the block.

    Args:
        handle: The handle of the file.
        deadlines: Timeouts and retries.
        scratch: Where it is downloaded to.
        deadline: When it must have come.

    Raises:
        ModelNotFoundError: There is no such file.
        DigestMismatchError, LengthMismatchError: Other bytes came than the hub lists.
        HubdistError: As for `HfHub.files`.
    """
    name = RepoName.parse(handle.text)
    hub = _at_commit(HfHub(name, deadlines, deadline), deadlines, deadline)
    files = [file for file in hub.files() if file.path == name.path]
    if not files:
        raise ModelNotFoundError(f"{handle.redacted} is a directory, and not a file")
    with contextlib.closing(_downloaded(hub, files, deadlines, scratch, deadline)) as downloads:
        for file, path in downloads:
            with open_local(path) as content:
                _copy_checked(content, file, None)
                content.file.seek(0)
                yield content


def _at_commit(hub: HfHub, deadlines: Deadlines, deadline: Deadline) -> HfHub:
    """The same place at its commit, so that all files are of one commit."""
    return hub if hub.name.is_commit else HfHub(hub.name.at(hub.commit()), deadlines, deadline)


def _downloaded(
    hub: HfHub, files: list[HubFile], deadlines: Deadlines, scratch: Scratch, deadline: Deadline
) -> Generator[tuple[HubFile, Path]]:
    folder = scratch.path / _FOLDER
    with disk_errors(folder):
        folder.mkdir()
    downloads = Downloads(folder, scratch, deadlines, deadline, hub.name.text)
    return downloads.each(files, lambda file: hub.download(file, folder))


def _stored(stored: StoredFiles, files: list[HubFile], held: contextlib.ExitStack) -> dict[str, Path]:
    """Path in the repository -> a file of the store that has the digest which the hub lists."""
    found = {}
    for file in files:
        for path in held.enter_context(stored.open(file.sha256 or file.path.rpartition("/")[2], file.size)):
            with contextlib.suppress(HubdistError), open_local(path) as content:
                _copy_checked(content, file, None)
                found[file.path] = path
                break
    return found


def _root_of(path: str, files: list[HubFile]) -> str:
    """What stands before the paths in the model: a directory with a slash; a file becomes a model of one file."""
    if not path:
        return ""
    return f"{path}/" if files[0].path != path else path.removesuffix(path.rpartition("/")[2])


def _copy_checked(content: LocalStream, file: HubFile, writer: FileWriter | None) -> None:
    """Copy a file, and compare it with what the hub lists.

    Git's own digest is a sha1, and only finds damage; a file that is kept outside of Git has a sha256.

    Args:
        content: The file that was downloaded.
        file: What the hub lists.
        writer: Where the bytes go; None only checks them.

    Raises:
        LengthMismatchError: The size differs.
        DigestMismatchError: The digest differs.
    """
    if file.sha256 is not None:
        digest, expected = hashlib.sha256(), file.sha256
    else:
        digest, expected = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False), file.blob_id
    size = 0
    while data := content.read(READ_BYTES):
        size += len(data)
        digest.update(data)
        if writer is not None:
            writer.write(data)
    if size != file.size:
        raise LengthMismatchError(f"{file.path} has {size} bytes, and the hub lists {file.size}")
    if digest.hexdigest() != expected:
        raise DigestMismatchError(
            f"{file.path} is not what the hub lists", expected=expected, actual=digest.hexdigest()
        )
