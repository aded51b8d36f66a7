"""The care of the shared cache. What goes is marked first, and removed by a later run (`shared_cache.removals`)."""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self, TypeVar

from hubdist.care.collection import Removal
from hubdist.care.listing import StoredModel
from hubdist.care.place import Answers
from hubdist.care.verification import Verified
from hubdist.errors import HandleError, HubdistError, IntegrityError, ResolveError, TransferError
from hubdist.model.manifest import BLOCK_BYTES, Digest, Entry, EntryDigester, Manifest
from hubdist.remote import Tree
from hubdist.shared_cache import removals as marks
from hubdist.shared_cache.cache import SharedCache, decode_record, record_path, snapshot_folder
from hubdist.shared_cache.lease import hold_lease
from hubdist.shared_cache.removals import Removals
from hubdist.store.store import Store
from hubdist.system.deadline import Deadlines

_T = TypeVar("_T")


class SharedPlace:
    """A `CarePlace` of the shared cache.

    Args:
        cache: The shared cache.
        deadlines: Timeouts and retries of each call.
        store: This node's store, from which damaged files are filled again; None: there is none.
    """

    def __init__(self, cache: SharedCache, deadlines: Deadlines, store: Store | None) -> None:
        self._cache = cache
        self._deadlines = deadlines
        self._store = store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is kept open."""

    def list_models(self) -> Answers[list[StoredModel]]:
        """All snapshots with a record; the one that was used last comes first."""
        return self._answer(_list_models)

    def verify(self, digests: Sequence[Digest] | None, *, repair: bool) -> Answers[list[Verified]]:
        """Read every byte of the cache again, and compare it with the manifests.

        Args:
            digests: The models; None for all.
            repair: Fill damaged snapshots again from this node's store; one that it lacks counts as absent from now on.
        """

        def work(tree: Tree, removals: Removals) -> list[Verified]:
            wanted = [model.digest for model in _list_models(tree, removals)] if digests is None else digests
            found = [self._verify(tree, digest, repair=repair) for digest in wanted]
            return [verified for verified in found if verified is not None]

        return self._answer(work)

    def remove(self, digests: Sequence[Digest], *, dry_run: bool) -> Answers[list[Removal]]:
        """Mark snapshots that are to go; `collect` removes them after the grace time.

        Args:
            digests: The models.
            dry_run: Only tell.
        """

        def work(tree: Tree, removals: Removals) -> list[Removal]:
            known = {model.digest: model for model in _list_models(tree, removals)}
            return [self._mark(removals, known[digest], dry_run=dry_run) for digest in digests if digest in known]

        return self._answer(work)

    def collect(self, *, max_bytes: int | None, max_age_s: float | None, dry_run: bool) -> Answers[list[Removal]]:
        """Remove what was marked before the grace time and not wanted since; then mark what is too old or too much.

        Args:
            max_bytes: Most bytes of snapshots that stay; None for no limit.
            max_age_s: Snapshots that were not used for more seconds than this go; None for no limit.
            dry_run: Only tell.
        """

        def work(tree: Tree, removals: Removals) -> list[Removal]:
            if dry_run:
                return self._collect(tree, removals, max_bytes, max_age_s, dry_run=True)
            with hold_lease(self._cache.url, "collect", self._deadlines, lambda: None):
                return self._collect(tree, removals, max_bytes, max_age_s, dry_run=False)

        return self._answer(work)

    def keep(self, digests: Sequence[Digest]) -> Answers[list[Digest]]:
        """Let nobody remove snapshots, until `release`."""

        def work(tree: Tree, removals: Removals) -> list[Digest]:
            for digest in digests:
                marks.keep(tree, digest)
            return [digest for digest in digests if removals.admit(digest)]  # which ends marks that are there

        return self._answer(work)

    def release(self, digests: Sequence[Digest]) -> Answers[list[Digest]]:
        """Let collectors remove snapshots again; the answer has those that were kept."""
        return self._answer(lambda tree, _: [digest for digest in digests if marks.release(tree, digest)])

    def _answer(self, work: Callable[[Tree, Removals], list[_T]]) -> Answers[list[_T]]:
        try:
            with self._cache.opened() as (tree, removals):
                return Answers({self._cache.redacted: work(tree, removals)})
        except (ResolveError, TransferError) as error:
            return Answers({}, {self._cache.redacted: error})

    def _collect(
        self, tree: Tree, removals: Removals, max_bytes: int | None, max_age_s: float | None, *, dry_run: bool
    ) -> list[Removal]:
        models = {model.digest: model for model in _list_models(tree, removals)}
        done = []
        for digest in sorted(marks.digests_in(tree, "removals")):
            model = models.pop(digest, None) or StoredModel(digest, (), 0, 0, 0.0)
            done.append(_settle(removals, model, dry_run=dry_run))
        total = sum(model.size for model in models.values())
        now = time.time()
        for model in sorted(models.values(), key=lambda model: (model.used_at, model.digest)):
            too_old = max_age_s is not None and now - model.used_at > max_age_s
            too_many = max_bytes is not None and total > max_bytes
            if too_old or too_many:
                removal = self._mark(removals, model, dry_run=dry_run)
                total -= 0 if model.kept else model.size
                done.append(removal)
        return done

    def _mark(self, removals: Removals, model: StoredModel, *, dry_run: bool) -> Removal:
        removal = Removal(model.digest, model.size, model.handles, removed=False)
        if model.kept:
            return replace(removal, why="it is kept; `hubdist release --where shared` lets it go")
        if not dry_run and not removals.marks(model.digest):
            removals.mark(model.digest)
        return replace(removal, why=_to_go(self._cache.grace_s))

    def _verify(self, tree: Tree, digest: Digest, *, repair: bool) -> Verified | None:
        data = tree.load(record_path(digest))
        if data is None:
            return None
        damaged: dict[str, str] = {}
        size = 0
        try:
            manifest, _ = decode_record(data, digest, tree.url(record_path(digest)))
        except IntegrityError as error:
            damaged[""] = str(error)
        else:
            size = manifest.total_bytes
            damaged = _damaged_files(tree, snapshot_folder(digest), manifest)
            if not damaged and self._cache.find(digest) is None:
                damaged[""] = "its files were replaced after the record was written"
        if not damaged:
            return Verified(digest, size)
        verified = Verified(digest, size, tuple(damaged.values()))
        return self._fill_again(tree, verified, [path for path in damaged if path]) if repair else verified

    def _fill_again(self, tree: Tree, verified: Verified, paths: Sequence[str]) -> Verified:
        """Take the record away, so that nobody reads the snapshot, and fill it from this node's store."""
        digest = verified.digest
        tree.delete(record_path(digest))
        for path in paths:
            tree.delete(f"{snapshot_folder(digest)}/{path}")
        snapshot = None if self._store is None else self._store.find(digest)
        if snapshot is None:
            return replace(verified, quarantined=True)
        with snapshot:
            try:
                self._cache.fill(snapshot)
            except HubdistError:
                return replace(verified, quarantined=True)
        return replace(verified, repaired=True, repaired_from=(str(snapshot.root),))


def _list_models(tree: Tree, removals: Removals) -> list[StoredModel]:
    """All snapshots with a record. One that nobody has noted a use of counts as used now, and that is noted."""
    named, kept = _handles(tree), marks.digests_in(tree, "kept")
    models = []
    for path in tree.listing("snapshots"):
        if "/" in path or not path.endswith(".json"):
            continue
        with contextlib.suppress(HandleError):
            digest = Digest.parse(f"sha256:{path.removesuffix('.json')}")
            files, size = _measured(tree, digest)
            used_at = removals.used_at(digest)
            if used_at is None:
                used_at = _begin_to_age(removals, digest)
            models.append(StoredModel(digest, named.get(digest, ()), size, files, used_at, digest in kept))
    return sorted(models, key=lambda model: (-model.used_at, model.digest))


def _begin_to_age(removals: Removals, digest: Digest) -> float:
    with contextlib.suppress(HubdistError):  # a cache that this user may only read
        removals.note_use(digest)
    return time.time()


def _measured(tree: Tree, digest: Digest) -> tuple[int, int]:
    """How many files, and how many bytes."""
    data = tree.load(record_path(digest))
    with contextlib.suppress(IntegrityError):
        if data is not None:
            manifest, _ = decode_record(data, digest, tree.url(record_path(digest)))
            return len(manifest.entries), manifest.total_bytes
    return 0, sum(file.size for file in tree.listing(snapshot_folder(digest)).values())


def _handles(tree: Tree) -> dict[Digest, tuple[str, ...]]:
    named: defaultdict[Digest, set[str]] = defaultdict(set)
    for path in tree.listing("handles"):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError, HandleError):
            note = json.loads(tree.load(f"handles/{path}") or b"")
            named[Digest.parse(note["digest"])].add(str(note["handle"]))
    return {digest: tuple(sorted(handles)) for digest, handles in named.items()}


def _settle(removals: Removals, model: StoredModel, *, dry_run: bool) -> Removal:
    """Go on with all marks of a snapshot."""
    removal = Removal(model.digest, model.size, model.handles, removed=False, why="somebody has used it since")
    for token in removals.marks(model.digest):
        stays = model.kept or removals.used_since(model.digest, token)
        gone, left_s = removals.settle(model.digest, token, stays=stays, dry_run=dry_run)
        if gone:
            return replace(removal, removed=True, why="")
        if left_s > 0:
            removal = replace(removal, why=_to_go(left_s))
    return replace(removal, why="it is kept") if model.kept else removal


def _to_go(left_s: float) -> str:
    minutes = -(-int(left_s) // 60)
    return f"marked: `hubdist gc --where shared` removes it in {minutes} minutes or later, unless somebody uses it"


def _damaged_files(tree: Tree, folder: str, manifest: Manifest) -> dict[str, str]:
    """Path -> what is wrong, for each file whose bytes are not the manifest's."""
    found, damaged = tree.listing(folder), {}
    for entry in manifest.entries:
        file = found.get(entry.path)
        if file is None:
            damaged[entry.path] = f"{entry.path} is missing"
        elif file.size != entry.size:
            damaged[entry.path] = f"{entry.path} has {file.size} bytes instead of {entry.size}"
        elif _digested(tree, folder, entry, file.version).digest != entry.digest:
            damaged[entry.path] = f"{entry.path} differs"
    for path in sorted(found.keys() - {entry.path for entry in manifest.entries}):
        damaged[path] = f"{path} does not belong to it"
    return damaged


def _digested(tree: Tree, folder: str, entry: Entry, version: str) -> Entry:
    digester, buffer = EntryDigester(entry.path), memoryview(bytearray(BLOCK_BYTES))
    for _, data in tree.stream(f"{folder}/{entry.path}", 0, entry.size, buffer, version):
        digester.update(data)
    return digester.entry()
