"""A hub on 127.0.0.1 that speaks Hugging Face's protocol to the real package huggingface_hub, and counts what it sends.

    from hubdist.testing.hugging_face import LoopbackHuggingFace

    def test_my_pipeline_asks_the_hub_once(monkeypatch):
        with LoopbackHuggingFace() as hub:
            hub.add("acme/mnist", {"config.json": b"{}", "model.safetensors": weights})
            ...  # in a process with HF_ENDPOINT=hub.url from its start
            assert hub.sent("model.safetensors") == len(weights)

Files of at least `lfs_bytes` are served as LFS files are: by a redirect to another path, with a sha256.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from hubdist.testing.hugging_face_server import Reply, RepoServer

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass
class _Repo:
    """A repository: its commits, what branches and tags are, and who may read it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False


class LoopbackHuggingFace:
    """A hub that serves from when it is made until it is closed. Any thread may call any method.

    Args:
        lfs_bytes: Size in bytes from which on files are kept outside of Git.

    Attributes:
        cut_next: How many bytes the next answer with a file sends before its connection ends; None sends all.
    """

    def __init__(self, *, lfs_bytes: int = 1000) -> None:
        self._lfs_bytes = lfs_bytes
        self._lock = threading.Lock()
        self._repos: dict[tuple[str, str], _Repo] = {}
        self._server = RepoServer(self._answer)
        self.cut_next: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        """The hub's address, for `HF_ENDPOINT`."""
        return self._server.url

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        kind: str = "model",
        revision: str = "main",
        token: str | None = None,
        gated: bool = False,
    ) -> str:
        """Commit files to a branch or tag; the commit before stays.

        Args:
            repo_id: `owner/name`, or a name alone.
            files: Path -> content: all files of the commit.
            kind: `model`, `dataset` or `space`.
            revision: The branch or tag.
            token: The only token that may see the repository; None lets everybody.
            gated: True refuses everybody's files.

        Returns:
            The id of the commit.
        """
        listing = "".join(f"{path} {hashlib.sha256(data).hexdigest()}\n" for path, data in sorted(files.items()))
        commit = hashlib.sha1(f"{repo_id}\n{listing}".encode(), usedforsecurity=False).hexdigest()
        with self._lock:
            repo = self._repos.setdefault((kind, repo_id), _Repo())
            repo.commits[commit] = dict(files)
            repo.refs[revision] = commit
            repo.token, repo.gated = token, gated
        return commit

    def sent(self, path: str | None = None) -> int:
        """Bytes of files that were handed to the network so far, metadata not counted.

        Args:
            path: Counts files with this path alone; None counts all files.
        """
        return sum(request.bytes_sent for request in self._server.requests() if path in (None, request.file))

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of all requests so far."""
        return [(request.method, request.path) for request in self._server.requests()]

    def _answer(self, path: str, token: str | None, asked: Mapping[str, Any]) -> Reply:
        names = path.strip("/").split("/")
        if names[0] == "cdn":
            return self._stored(names[1])
        is_api = names[0] == "api"
        if is_api:
            names = names[1:]
        kind = _KINDS.get(names[0], "model")
        if names[0] in _KINDS:
            names = names[1:]
        with self._lock:
            at = 2 if (kind, "/".join(names[:2])) in self._repos else 1
            repo_id = "/".join(names[:at])
            repo = self._repos.get((kind, repo_id))
        if repo is None or repo.token not in (None, token):
            return Reply.refusal(401 if token is None else 404, "RepoNotFound")
        verb, rest = (names[at], names[at + 1 :]) if len(names) > at else ("revision", ["main"])
        revision = unquote(rest[0]) if rest else "main"  # its slashes are quoted
        commit = revision if revision in repo.commits else repo.refs.get(revision)
        if commit is None:
            return Reply.refusal(404, "RevisionNotFound")
        files = repo.commits[commit]
        if is_api:
            if verb == "revision":
                return Reply.json({"id": repo_id, "modelId": repo_id, "sha": commit, "siblings": [], "tags": []})
            return self._metadata(verb, "/".join(rest[1:]), asked, files)
        return Reply.refusal(403, "GatedRepo") if repo.gated else self._file("/".join(rest[1:]), commit, files)

    def _metadata(self, verb: str, path: str, asked: Mapping[str, Any], files: Mapping[str, bytes]) -> Reply:
        if verb == "paths-info":
            wanted = asked.get("paths", [])
            folders = [name for name in wanted if name not in files and any(f.startswith(f"{name}/") for f in files)]
            listed = [self._entry(name, files[name]) for name in wanted if name in files]
            return Reply.json([*listed, *({"type": "directory", "path": name, "oid": "0" * 40} for name in folders)])
        below = {name: data for name, data in files.items() if not path or name.startswith(f"{path}/")}
        if not below:
            return Reply.refusal(404, "EntryNotFound")
        return Reply.json([self._entry(name, data) for name, data in below.items()])

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(data), "oid": _git_digest(data)}
        if len(data) >= self._lfs_bytes:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def _file(self, path: str, commit: str, files: Mapping[str, bytes]) -> Reply:
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            return Reply.refusal(404, "EntryNotFound", headers)
        data = files[path]
        if len(data) < self._lfs_bytes:
            cut, self.cut_next = self.cut_next, None
            return Reply(200, {**headers, "ETag": f'"{_git_digest(data)}"'}, data, file=path, cut=cut)
        digest = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        return Reply(302, {**headers, "Location": f"{self._server.other_url}/cdn/{digest}"}, b"")

    def _stored(self, digest: str) -> Reply:
        with self._lock:
            commits = [files for repo in self._repos.values() for files in repo.commits.values()]
        for path, data in (item for files in commits for item in files.items()):
            if hashlib.sha256(data).hexdigest() == digest:
                cut, self.cut_next = self.cut_next, None
                return Reply(200, {"ETag": f'"{digest}"'}, data, file=path, cut=cut)
        return Reply.refusal(404, "EntryNotFound")


def _git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
