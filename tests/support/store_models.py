"""Small models for tests of a store, and what lies in the store afterwards."""

from __future__ import annotations

from pathlib import Path

from hubdist.model.manifest import Digest
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store

FILES = {"saved_model.pb": b"graph" * 500, "assets/words.txt": b"one\ntwo\n", "empty": b""}


def publish(store: Store, files: dict[str, bytes] = FILES) -> Snapshot:
    with store.stage() as stage:
        for path, data in files.items():
            with stage.open_file(path) as writer:
                writer.write(data)
        return store.publish(stage)


def model(number: int, size: int = 1000) -> dict[str, bytes]:
    return {"saved_model.pb": bytes([number]) * size}


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def home(store: Store, digest: Digest) -> Path:
    return store.root / "snapshots" / digest.value


def staged(store: Store) -> list[Path]:
    return list((store.root / "staging").iterdir())
