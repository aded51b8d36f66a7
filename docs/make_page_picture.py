"""Make the pictures that the documentation shows: the page of a job.

    python docs/make_page_picture.py

Starts Ray nodes and a hub on this machine, needs no network, and draws with a headless Chromium
(`apt-get install chromium`). Times, ports and node ids differ each time.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import hubdist  # noqa: E402 - after the path, as the tests' support
from hubdist.client.job_reports import find_report  # noqa: E402 - the same
from hubdist.report.page import write_page  # noqa: E402 - the same
from hubdist.testing.cluster import RayCluster  # noqa: E402 - the same
from hubdist.testing.hub import LoopbackHub  # noqa: E402 - the same
from tests.support.chromium import Chromium  # noqa: E402 - the same

PICTURES = REPOSITORY / "docs" / "pictures"


def make_model(folder: Path, size: int) -> Path:
    """A directory of random bytes; nothing loads it here.

    Args:
        folder: The directory to make.
        size: Bytes of its one file.
    """
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(size))
    return folder


def draw_report(folder: Path) -> None:
    """Run a job with two models and a handle that leads nowhere, and draw its page."""
    with LoopbackHub() as hub:
        handles = [
            hub.add_model("acme/sentences/4", make_model(folder / "large", 64 << 20)),
            hub.add_model("acme/words/1", make_model(folder / "small", 12 << 20)),
        ]
        with RayCluster(folder, nodes=5, log_to_driver=False, logging_level="warning") as cluster:
            hubdist.init(store=cluster.store, link="10Gbit/s")
            for handle in handles:
                hubdist.prefetch(handle)
            with contextlib.suppress(hubdist.errors.ModelNotFoundError):
                hubdist.resolve(handles[0].replace("/4", "/5"))
            page = write_page(find_report(None, address="auto"), folder / "report.html")
    with Chromium() as browser:
        browser.open(page)
        browser.screenshot(PICTURES / "report.png", end="#nodes")


def main() -> None:
    """Make all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        draw_report(Path(name))


if __name__ == "__main__":
    main()
