"""Print the output that the documentation shows: a prefetch, a plan, a status and a failure.

    python docs/make_output.py

Starts three Ray nodes and a hub on this machine, and needs no network. Times, ports and node ids differ each time.
"""

import os
import tempfile
from pathlib import Path

import hubdist
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub


def make_model(folder: Path) -> Path:
    """A directory of random bytes with the layout of a SavedModel; nothing loads it here."""
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "words.txt").write_text("the\nof\nand\n", encoding="utf-8")
    (folder / "weights.bin").write_bytes(os.urandom(16 << 20))
    return folder


def main() -> None:
    """Show each call and what it prints."""
    with tempfile.TemporaryDirectory() as name, LoopbackHub() as hub:
        folder = Path(name)
        handle = hub.add_model("acme/sentences/4", make_model(folder / "model"))
        with RayCluster(folder, nodes=3, log_to_driver=False, logging_level="warning") as cluster:
            hubdist.init(store=cluster.store)
            print("\n>>> print(hubdist.plan(handle))")
            print(hubdist.plan(handle))
            report = hubdist.prefetch(handle)
            print("\n>>> print(hubdist.prefetch(handle))")
            print(report)
            print("\n>>> print(report.draw_text())")
            print(report.draw_text())
            print("\n>>> print(hubdist.plan(handle))")
            print(hubdist.plan(handle))
            print("\n>>> print(hubdist.status())")
            print(hubdist.status())
            print('\n>>> hubdist.resolve(".../acme/sentences/5")')
            try:
                hubdist.resolve(handle.replace("/4", "/5"))
            except hubdist.HubdistError as error:
                print(f"{type(error).__module__}.{type(error).__qualname__}: {error}")


if __name__ == "__main__":
    main()
