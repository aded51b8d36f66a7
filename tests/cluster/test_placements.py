"""Where the coordinator lives, and what the driver is: a script, a Ray Client, a Serve application without any."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.testing.hub import LoopbackHub
from tests.support.ray_head import Head, ray_head

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """One head for all tests here, each of which is a job of its own."""
    with ray_head(tmp_path_factory.mktemp("head"), cpus=4) as running:
        yield running


def run(script: str, head: Head, *args: str, timeout: float = 150) -> str:
    """What a script prints as a process of its own, with the head's addresses in its environment."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args],
        env={**head.environment, "HEAD": head.address, "CLIENT": head.client_url},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    logs = "".join(path.read_text()[-3000:] for path in head.logs.glob("ray_client_server*.err"))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nRay Client's server said:\n{logs}"
    return done.stdout


def test_a_scripts_own_origin_reaches_the_coordinator(head: Head) -> None:
    said = run(
        """
        import os, pathlib, ray, hubdist
        from hubdist.testing.memory import MemorySource

        def registry(handle):  # lives in __main__ only
            return MemorySource({"saved_model.pb": handle.encode() + NOTE})

        NOTE = b" by my registry"
        ray.init(address=os.environ["HEAD"], log_to_driver=False)
        hubdist.init(origins={"mine": registry})

        @ray.remote
        def read():
            return pathlib.Path(hubdist.resolve("mine://team/model"), "saved_model.pb").read_text()

        print(ray.get(read.remote(), timeout=60))
        """,
        head,
    )
    assert said.strip().endswith("mine://team/model by my registry")


def test_a_coordinator_that_a_task_made_outlives_the_task(head: Head, hub: LoopbackHub, tmp_path: Path) -> None:
    handle = hub.add_model("acme/lazy/1", {"saved_model.pb": b"lazy"})
    said = run(
        """
        import os, pathlib, sys, ray, hubdist
        ray.init(address=os.environ["HEAD"], log_to_driver=False)
        os.chdir(sys.argv[2])

        @ray.remote(max_calls=1)
        def read(handle):
            return os.getpid(), hubdist.resolve(handle), len(hubdist.status().pins)

        answers = [ray.get(read.remote(sys.argv[1]), timeout=60) for _ in range(3)]
        assert len({pid for pid, _, _ in answers}) == 3
        assert len({path for _, path, _ in answers}) == 1
        assert [pins for _, _, pins in answers] == [1, 1, 1]
        os.mkdir("beside")
        pathlib.Path("beside", "saved_model.pb").write_text("beside the driver")
        assert pathlib.Path(hubdist.resolve("beside"), "saved_model.pb").read_text() == "beside the driver"
        hubdist.shutdown()
        print("fine")
        """,
        head,
        handle,
        str(tmp_path),
    )
    assert said.strip().endswith("fine")
    assert hub.reads(handle) == 1


def test_a_coordinator_that_a_task_made_ends_when_nobody_asks_it(head: Head, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/idle/1", {"saved_model.pb": b"idle"})
    said = run(
        """
        import os, sys, time, ray, hubdist

        def hurry():
            import hubdist.cluster.coordinator.coordinator
            hubdist.cluster.coordinator.coordinator._DETACHED_IDLE_S = 2.0

        hook = {"worker_process_setup_hook": hurry}
        ray.init(address=os.environ["HEAD"], log_to_driver=False, runtime_env=hook)

        @ray.remote
        def read(handle):
            return hubdist.resolve(handle)

        def coordinators():
            return [one["name"] for one in ray.util.list_named_actors(all_namespaces=True)]

        first = ray.get(read.remote(sys.argv[1]), timeout=60)
        assert len(coordinators()) == 1
        deadline = time.monotonic() + 60
        while coordinators():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert ray.get(read.remote(sys.argv[1]), timeout=60) == first  # a new one, with the pins of the first
        hubdist.shutdown()
        print("fine")
        """,
        head,
        handle,
    )
    assert said.strip().endswith("fine")
    assert hub.reads(handle) == 1


def test_ray_client_drivers_use_the_head_as_their_side(head: Head, hub: LoopbackHub, tmp_path: Path) -> None:
    handle = hub.add_model("acme/client/1", {"saved_model.pb": b"by client"})
    said = run(
        """
        import os, pathlib, sys, ray, hubdist
        os.environ["XDG_CACHE_HOME"] = sys.argv[2]  # another machine, with a disk of its own
        ray.init(os.environ["CLIENT"], logging_level="error")

        @ray.remote
        def read(handle):
            return pathlib.Path(hubdist.resolve(handle), "saved_model.pb").read_text()

        print(hubdist.prefetch(sys.argv[1]))
        print(ray.get(read.remote(sys.argv[1]), timeout=60))
        print(pathlib.Path(hubdist.resolve(sys.argv[1]), "saved_model.pb").read_text())
        try:
            ray.get(read.remote("/no/such/model"), timeout=60)
        except hubdist.HubdistError as error:
            print("refused", "head node" in str(error))
        hubdist.shutdown()
        """,
        head,
        handle,
        str(tmp_path / "client"),
    )
    assert len(list((tmp_path / "client" / "hubdist" / "snapshots").iterdir())) == 1
    assert said.count("by client") == 2
    assert "refused True" in said
    assert hub.reads(handle) == 1


def test_serve_replicas_load_without_a_driver(head: Head, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/serve/1", {"saved_model.pb": b"served"})
    run(
        """
        import os, pathlib, sys, ray, hubdist
        from ray import serve

        @serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})
        class Model:
            async def __call__(self, handle):
                path = await hubdist.resolve_async(handle)
                return pathlib.Path(path, "saved_model.pb").read_text()

        ray.init(address=os.environ["HEAD"], namespace="serve", log_to_driver=False)
        serve.start(proxy_location="Disabled")
        serve.run(Model.bind(), name="app", route_prefix=None)
        """,
        head,
    )  # the driver is gone now
    said = run(
        """
        import os, sys, ray
        from ray import serve
        ray.init(address=os.environ["HEAD"], namespace="serve", log_to_driver=False)
        handle = serve.get_app_handle("app")
        answers = [handle.remote(sys.argv[1]) for _ in range(8)]
        print([answer.result(timeout_s=60) for answer in answers])
        serve.shutdown()
        """,
        head,
        handle,
    )
    assert said.count("served") == 8
    assert hub.reads(handle) == 1
