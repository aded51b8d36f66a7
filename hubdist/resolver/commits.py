"""Which commit each branch or tag of Hugging Face is, for one job: asked once, so that all handles agree."""

from __future__ import annotations

import threading

from hubdist.model.handle import Handle, parse_handle
from hubdist.model.hf_names import RepoName
from hubdist.origins.huggingface import HfHub, needs_commit
from hubdist.system.deadline import Deadline, Deadlines


class Commits:
    """Commits that the hub has told. Safe for several threads.

    Args:
        deadlines: Timeouts and retries of the question.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._guard = threading.Lock()
        self._known: dict[tuple[str, str, str], str] = {}
        """Kind, repository and revision -> commit."""

    def settled(self, handle: Handle, deadline: Deadline, *, anew: bool) -> Handle | None:
        """The same handle at the commit of its branch or tag; None if it names none of Hugging Face.

        Args:
            handle: Any handle.
            deadline: When the hub must have answered.
            anew: Ask the hub whatever is known.

        Raises:
            NotPinnedError: huggingface_hub is offline.
            ResolveError, TransferError: The hub refuses, or does not answer.
        """
        if not needs_commit(handle):
            return None
        root = handle.root.text
        name = RepoName.parse(root)
        key = (name.kind, name.repo_id, name.revision)
        commit = None if anew else self._known.get(key)
        if commit is None:
            commit = HfHub(name, self._deadlines, deadline).commit()
            with self._guard:
                if anew:
                    self._known[key] = commit
                else:  # another thread may have asked at the same time, and heard of another commit
                    commit = self._known.setdefault(key, commit)
        return parse_handle(handle.text.removesuffix(root) + name.at(commit).text)
