"""However the coordinator goes, what the job promised holds: for processes that know it and for those that do not."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import ray

from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from tests.support import REPOSITORY
from tests.support.again_driver import NAMESPACE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

WAYS = ["killed", "idle", "shut down", "driver gone", "node lost"]
PROMISES = {
    "loose": {"digest": "DigestMismatchError", "own origin": "by my registry", "settings": "memory", "pins": "old"},
    "strict": {"frozen": "frozen", "offline": "offline"},
}


class Driver:
    """A driver of its own job; see `tests.support.again_driver`."""

    def __init__(self, address: str, folder: Path, *args: str) -> None:
        for name in ("changing", "chosen", "set", "unknown"):
            (folder / name).mkdir(parents=True)
            (folder / name / "data").write_text("old" if name == "changing" else name)
        self.folder = folder
        command = [sys.executable, "-m", "tests.support.again_driver", address, str(folder), *args]
        with (folder / "errors").open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=60)

    def hear(self, word: str) -> None:
        """Wait until it says this."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said == f"{word}\n", (self.folder / "errors").read_text()[-3000:]

    def let_go(self) -> None:
        """Change the origin, and let the coordinator go."""
        (self.folder / "changing" / "data").write_text("new")
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Wait for its end."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str, str], dict[str, Any]]]:
    """Way, rules, who asks -> what each promise gave; jobs of one way run at the same time."""
    folder = tmp_path_factory.mktemp("again")
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    with (
        LoopbackHub() as hub,
        RayCluster(folder, nodes=1, cpus=2, log_to_driver=False, namespace=NAMESPACE) as cluster,
    ):
        (head,) = cluster.node_ids
        url = hub.add_model("acme/offline/1", {"data": b"from the hub"})
        for way in WAYS:
            doomed = cluster.add_node() if way == "node lost" else ""
            with contextlib.ExitStack() as drivers:
                jobs = {
                    rules: drivers.enter_context(
                        Driver(cluster.address, folder / way / rules, way, rules, url, doomed, head)
                    )
                    for rules in PROMISES
                }
                for job in jobs.values():
                    job.hear("ready")
                for job in jobs.values():
                    job.let_go()
                for job in jobs.values():
                    job.hear("gone")
                    if way == "driver gone":
                        job.end()
                if doomed:
                    cluster.remove_node(doomed)
                for rules, job in jobs.items():
                    for who in ("fresh", "joined"):  # the one that knows nothing makes the coordinator
                        asker = ray.get_actor(f"{way} {rules} {who}")
                        found[way, rules, who] = ray.get(asker.ask.remote(str(job.folder), rules, url), timeout=120)
                        ray.kill(asker)
        assert hub.reads(url) == 0
    yield found


@pytest.mark.parametrize("promise", [(rules, name) for rules, names in PROMISES.items() for name in names])
@pytest.mark.parametrize("who", ["fresh", "joined"])
@pytest.mark.parametrize("way", WAYS)
def test_a_promise_holds(
    answers: dict[tuple[str, str, str], dict[str, Any]], way: str, who: str, promise: tuple[str, str]
) -> None:
    rules, name = promise
    assert answers[way, rules, who][name] == PROMISES[rules][name]
