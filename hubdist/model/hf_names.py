"""Names of repositories on Hugging Face, as `hf://` handles write them: kind, repository, revision, path in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import quote, unquote

from hubdist.errors import HandleError
from hubdist.model.redact import redact_url

SCHEME = "hf"
"""The scheme of handles on Hugging Face."""

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_FOLDERS = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_DEFAULT = "main"
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REFS = re.compile(r"(refs/(?:pr|convert)/[^/]+)(?:/(.*))?", re.DOTALL)
"""Revisions whose slashes people write as they are. Source: huggingface_hub 2.4.0, `hf_file_system.py`."""


@dataclass(frozen=True, slots=True)
class RepoName:
    """What an `hf://` handle names.

    Attributes:
        kind: `model`, `dataset` or `space`.
        repo_id: `owner/name`, or the name alone for the few repositories without an owner.
        revision: A branch, a tag or a commit.
        path: A directory or file in the repository; "" for the whole repository.
    """

    kind: str
    repo_id: str
    revision: str = _DEFAULT
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a handle such as `hf://google/bert@v1.0/onnx`.

        A slash in a revision is written `%2F`, except in `refs/pr/7` and `refs/convert/parquet`.

        Raises:
            HandleError: The text names no repository.
        """
        rest = text.partition("://")[2].strip("/")
        folder, _, behind = rest.partition("/")
        kind = _KINDS.get(folder, "model")
        if folder in _KINDS:
            rest = behind
        before, at, after = rest.partition("@")
        names = before.split("/")
        if at and len(names) <= 2:
            refs = _REFS.fullmatch(after)
            revision, path = (refs[1], refs[2] or "") if refs else after.partition("/")[::2]
        else:  # an "@" further on belongs to the name of a file
            names, revision, path = rest.split("/")[:2], _DEFAULT, "/".join(rest.split("/")[2:])
        wrong_path = path and any(name in ("", ".", "..") for name in path.split("/"))
        if wrong_path or not revision or not all(_NAME.fullmatch(name) for name in names):
            raise HandleError(
                f"{redact_url(text)!r} names no repository of Hugging Face",
                advice="Write hf://<owner>/<name>[@<revision>][/<path>], or hf://datasets/<owner>/<name>.",
            )
        return cls(kind, "/".join(names), unquote(revision), path)

    @property
    def text(self) -> str:
        """The handle in its normal form, without the revision `main`."""
        at = "" if self.revision == _DEFAULT else f"@{quote(self.revision, safe='')}"
        return f"{SCHEME}://{_FOLDERS[self.kind]}{self.repo_id}{at}{'/' if self.path else ''}{self.path}"

    @property
    def is_commit(self) -> bool:
        """True if the revision is a commit, whose files never change."""
        return _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> Self:
        """The same place at another revision.

        Args:
            commit: The id of a commit, 40 hex digits.
        """
        return replace(self, revision=commit)
