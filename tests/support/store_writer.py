"""Stages and publishes one fixed small model in the store whose root is the argument, or evicts it; prints the digest.

A process of its own, so that tests can kill it at any system call. Exit status 3: a typed error, printed.
"""

import sys
from pathlib import Path

from hubdist.errors import StoreError
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import Digest, EntryDigester, Manifest
from hubdist.store.stage import StreamStage
from hubdist.store.store import Store

FILES = {"saved_model.pb": b"graph" * 500, "assets/words.txt": b"one\ntwo\n"}


def fill(stage: StreamStage) -> None:
    """Write the model as an origin would."""
    for path, data in FILES.items():
        with stage.open_file(path) as writer:
            writer.write(data)


def digest() -> Digest:
    """The model's digest."""
    entries = []
    for path, data in FILES.items():
        digester = EntryDigester(path)
        digester.update(data)
        entries.append(digester.entry())
    return Manifest.of(entries).digest


def main(root: Path, way: str) -> None:
    """Publish the model, staged as from an origin or as from peers; or evict it, if it is there."""
    if way == "evict":
        store = Store(root)
        store.evict(digest())
        print(digest())
        return
    manifest = None if way == "origin" else Manifest.from_json(Path(way).read_bytes())
    store = Store(root)
    if manifest is None:
        with store.stage() as stage:
            fill(stage)
            snapshot = store.publish(stage)
    else:
        with store.stage_chunks(manifest) as filled:
            for chunk in cut_chunks(manifest, 1 << 20):
                pieces = (manifest.entries[piece.entry_index].path for piece in chunk.pieces)
                filled.write_chunk(chunk, memoryview(b"".join(FILES[path] for path in pieces)))
            snapshot = store.publish(filled)
    print(snapshot.manifest.digest)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except StoreError as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(3)
