"""One repository on Hugging Face, as the package huggingface_hub reads it.

Tokens (`HF_TOKEN`, the file that `hf auth login` writes), `HF_ENDPOINT`, `HF_HUB_OFFLINE`, proxies and Xet are as they
are for huggingface_hub in this process: hubdist passes none of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hubdist.errors import (
    AccessDeniedError,
    HandleError,
    HubdistError,
    ModelNotFoundError,
    NotPinnedError,
    TransferTimeoutError,
)
from hubdist.model.handle import Handle, Kind
from hubdist.model.hf_names import SCHEME, RepoName
from hubdist.origins.identity import hugging_face_identity
from hubdist.system.answers import retry_after_s
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.faults import Fault, diagnose, fault_of
from hubdist.system.foreign import own_error
from hubdist.system.mends import error_for
from hubdist.system.quiet import quiet
from hubdist.system.retry import retry
from hubdist.system.threads import run_within

_T = TypeVar("_T")
LIBRARY = "hubdist"
"""How hubdist names itself to huggingface_hub; `hubdist.integrations.huggingface_hub` lets such calls pass."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit, as the hub lists it.

    Attributes:
        path: The path in the repository.
        size: Bytes.
        blob_id: Git's digest of what Git stores: of the file itself, unless it is kept outside of Git.
        sha256: The sha256 of a file that is kept outside of Git (LFS, Xet), as hex digits; None for others.
    """

    path: str
    size: int
    blob_id: str
    sha256: str | None


def load_library(redacted: str) -> ModuleType:
    """The package huggingface_hub.

    Args:
        redacted: The handle without secrets, for the error.

    Raises:
        HandleError: It is not installed.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise HandleError(
            "Hugging Face models need the package huggingface_hub, which is not installed where the driver runs",
            advice="Run: pip install 'hubdist[hf]'",
            handle=redacted,
        )
    import huggingface_hub

    return huggingface_hub


class HfHub:
    """Asks the hub about one place in a repository, with retries. Safe for several threads.

    Args:
        name: The place, at any revision.
        deadlines: Timeouts and retries.
        deadline: When everything must have been answered.

    Raises:
        HandleError: huggingface_hub is not installed.
    """

    def __init__(self, name: RepoName, deadlines: Deadlines, deadline: Deadline) -> None:
        self.name = name
        self._deadlines = deadlines
        self._deadline = deadline
        self._library = load_library(name.text)
        self._repo = {"repo_id": name.repo_id, "repo_type": name.kind, "revision": name.revision}

    def commit(self) -> str:
        """The commit that the revision is now.

        Raises:
            NotPinnedError: huggingface_hub is offline.
            ModelNotFoundError, AccessDeniedError: The hub has no such repository or revision, or refuses.
            TransferError: The hub does not answer.
        """
        info = self._ask(lambda api: api.repo_info(**self._repo, timeout=self._deadlines.stall_s))
        return str(info.sha)

    def these_files(self, paths: Sequence[str]) -> list[HubFile]:
        """Some files of the repository, without a list of all; those that are not there are left out.

        Args:
            paths: Their paths in the repository.

        Raises:
            HubdistError: As for `files`.
        """
        found = self._ask(lambda api: api.get_paths_info(**self._repo, paths=list(paths)))
        return sorted((_file_of(item) for item in found if _is_file(item)), key=lambda file: file.path)

    def files(self) -> list[HubFile]:
        """The files at the place, in order of path; one file if the place is a file.

        Raises:
            NotPinnedError: huggingface_hub is offline.
            ModelNotFoundError: There is nothing.
            AccessDeniedError, TransferError: As for `commit`.
        """
        found = self._ask(self._list)
        if not found:
            raise ModelNotFoundError(f"there are no files at {self.name.text}")
        return sorted((_file_of(item) for item in found), key=lambda file: file.path)

    def download(self, file: HubFile, folder: Path) -> Path:
        """Download one file into a directory, from where an earlier try ended.

        Args:
            file: One of `files`.
            folder: The directory; several files may be downloaded into it at a time.

        Raises:
            HubdistError: As for `commit`.
        """

        def fetch(_: Any) -> Path:
            path = self._library.hf_hub_download(
                **self._repo,
                filename=file.path,
                local_dir=folder,
                library_name=LIBRARY,
                etag_timeout=self._deadlines.stall_s,
                tqdm_class=_silent(self._library),
            )
            return Path(path)

        return self._ask(fetch, in_thread=False)

    def _list(self, api: Any) -> Sequence[Any]:
        path = self.name.path
        if path:
            places = api.get_paths_info(**self._repo, paths=[path])
            if not places or _is_file(places[0]):
                return list(places)
        tree = api.list_repo_tree(**self._repo, path_in_repo=path or None, recursive=True)
        return [item for item in tree if _is_file(item)]

    def _ask(self, work: Callable[[Any], _T], *, in_thread: bool = True) -> _T:
        """Call huggingface_hub, again if that may help.

        Args:
            work: Makes the call, with an `HfApi`.
            in_thread: Make it in a thread that is left behind when it is late.
        """
        api = self._library.HfApi(library_name=LIBRARY)

        def quietly() -> _T:
            with quiet():  # in a thread of its own, or of the caller's
                return work(api)

        def attempt() -> _T:
            if _library_is_offline():
                raise NotPinnedError(
                    "huggingface_hub is offline, and this model is not in the store of the driver's node",
                    handle=self.name.text,
                    advice="Run once without HF_HUB_OFFLINE.",
                )
            if not in_thread:
                return quietly()
            limit_s = self._deadline.within(self._deadlines.total_s)
            try:
                return run_within(quietly, "hubdist-huggingface", limit_s)
            except TimeoutError as error:
                if isinstance(error, HubdistError):
                    raise
            raise TransferTimeoutError(f"the hub gave nothing of {self.name.text} for {limit_s:.0f} s")

        return retry(
            attempt,
            self._deadlines,
            self._deadline,
            may_pass=lambda error: not isinstance(error, HubdistError) and fault_of(error).may_pass,
            give_up=self._translated,
            retry_after_s=retry_after_s,
        )

    def _translated(self, error: Exception, tries: int) -> HubdistError:
        text, found = self.name.text, diagnose(error)
        if isinstance(error, HubdistError) or found.fault in (Fault.FULL, Fault.OTHER):
            return own_error(error, text)
        told = error_for(found, text, name=type(error).__name__, tries="" if tries == 1 else f"{tries} times")
        return told.asked(hugging_face_identity()) if isinstance(told, AccessDeniedError) else told


def needs_commit(handle: Handle) -> bool:
    """True if a handle names a branch or tag of a repository, which may be another commit tomorrow."""
    root = handle.root
    return root.scheme == SCHEME and root.kind is not Kind.CUSTOM and not RepoName.parse(root.text).is_commit


def is_offline(handle: Handle) -> bool:
    """True if a handle is on Hugging Face, and huggingface_hub may not ask the hub (`HF_HUB_OFFLINE`)."""
    if handle.root.scheme != SCHEME or importlib.util.find_spec("huggingface_hub") is None:
        return False
    return _library_is_offline()


def check_hugging_face(name: RepoName, deadlines: Deadlines, deadline: Deadline) -> None:
    """Check that the hub has something at a place, and lets this process see it.

    Args:
        name: The place.
        deadlines: Timeouts and retries.
        deadline: When it must have answered.

    Raises:
        HubdistError: As for `HfHub.files`.
    """
    HfHub(name, deadlines, deadline).files()


def _library_is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _is_file(item: Any) -> bool:
    return hasattr(item, "blob_id")


def _file_of(item: Any) -> HubFile:
    return HubFile(item.path, item.size, item.blob_id, None if item.lfs is None else item.lfs.sha256)


def _silent(library: ModuleType) -> type:
    """A progress bar that draws nothing: hubdist draws its own."""

    class Silent(library.utils.tqdm):  # type: ignore[misc,name-defined]  # the package is loaded when it is needed
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent
