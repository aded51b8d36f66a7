"""Every block of code and every command in the README and the documentation runs as it is printed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from tests.support.gcs import fake_gcs
from tests.support.page_world import World
from tests.support.pages import PAGES, RUN, Block, blocks

pytestmark = [pytest.mark.cluster, pytest.mark.tf, pytest.mark.timeout(600)]

FOUND = {page: [block for block in blocks(page) if block.language in RUN and not block.not_run] for page in PAGES}
WITH_CODE = sorted((page for page, found in FOUND.items() if found), key=lambda page: page.endswith("/jobs.md"))
"""The page that makes jobs of its own comes last: processes that have imported TensorFlow end with their job."""
NODES = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "root").mkdir()
    with pytest.MonkeyPatch.context() as patch, LoopbackHub() as hub, fake_gcs() as gcs:
        # Before the cluster starts: its processes inherit it.
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("HUBDIST_STORE", str(folder / "stores" / "{node_id}"))
        # A process that has imported TensorFlow waits for the next page.
        patch.setenv("RAY_idle_worker_killing_time_threshold_ms", "600000")
        with RayCluster(folder, nodes=NODES, cpus=1, log_to_driver=False) as cluster:
            yield World(cluster, hub, gcs, folder / "root")


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBDIST_STORE", world.cluster.store)
    world.run(page, FOUND[page])


@pytest.mark.parametrize(
    ("language", "text", "place"),
    [
        ("python", "a = 1\nassert a == 2\n", r"page\.md:8: AssertionError"),
        ("python", "import hubdist\nhubdist.init(route='nowhere')\n", r"page\.md:8: .*ConfigError"),
        ("python", "a = 1  # raises ConfigError\n", r"page\.md:7: .*raises no ConfigError"),
        ("bash", "hubdist no-such-command\n", r"page\.md:7: .*ended with 2"),
        ("pycon", ">>> print('one word')\nanother sentence\n", r"page\.md:7: .*without \['another', 'sentence'\]"),
        ("yaml", "no_such_key: 1\n", r"page\.md:7: .*no_such_key"),
    ],
)
def test_a_block_that_fails_is_named(language: str, text: str, place: str, world: World) -> None:
    with pytest.raises(AssertionError, match=f"(?s)^{place}"):
        world.run("page.md", [Block("page.md", 7, language, text)])
