"""A driver whose coordinator goes in some way, while its detached actors live on; `test_coordinator_again` starts it.

    python -m tests.support.again_driver ADDRESS FOLDER WAY RULES URL DOOMED HEAD

It says `ready`, waits for a line, lets the coordinator go, says `gone`, and stays until its input ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import hubdist
from hubdist.client.current import current_process
from hubdist.cluster.connection import coordinator_name, find_coordinator
from hubdist.errors import HubdistError, NotPinnedError
from hubdist.resolver.values import CallOptions
from hubdist.testing.memory import MemorySource

NAMESPACE = "askers"
DIGEST = "sha256:" + "0" * 64


def own_origin(_: str) -> MemorySource:
    """An origin of the user's."""
    return MemorySource({"data": b"by my registry"})


def outcome(work: Callable[[], str]) -> str:
    """What a promise gives: a text, or the kind of error, with the setting that its text names."""
    try:
        return work()
    except NotPinnedError as error:
        return next((word for word in ("frozen", "offline") if word in error.what), str(error))
    except HubdistError as error:
        return type(error).__name__


def text_of(handle: str) -> str:
    """The file of a model."""
    return Path(hubdist.resolve(handle), "data").read_text()


@ray.remote(num_cpus=0)
class Asker:
    """An actor of the job that outlives it."""

    def begin(self, settings: dict[str, Any]) -> None:
        """Be the first process of the job that uses hubdist."""
        hubdist.init(**settings)

    def text_of(self, handle: str) -> str:
        """As above."""
        return text_of(handle)

    def ask(self, folder: str, rules: str, url: str) -> dict[str, str]:
        """Whether the job's promises hold."""
        if rules == "strict":
            return {
                "frozen": outcome(lambda: text_of(f"{folder}/unknown")),
                "offline": outcome(lambda: text_of(url)),
            }
        return {
            "digest": outcome(lambda: text_of(f"{folder}/chosen")),
            "own origin": outcome(lambda: text_of("mine://team/model")),
            "settings": outcome(
                lambda: str(current_process().pin_of(f"{folder}/set", CallOptions()).settings.read_mode)
            ),
            "pins": outcome(lambda: text_of(f"{folder}/changing")),
        }


def settings(folder: Path, rules: str, url: str) -> dict[str, Any]:
    """What the job begins with."""
    store = str(folder / "stores" / "{node_id}")
    if rules == "strict":
        return {"store": store, "frozen": True, "offline": True, "models": [{"handle": url, "digest": DIGEST}]}
    models = [
        {"handle": f"{folder}/chosen", "digest": DIGEST},
        {"handle": f"{folder}/set", "read_mode": "memory"},
    ]
    return {"store": store, "models": models, "origins": {"mine": own_origin}, "timeout_s": 120}


def hook_for(way: str, doomed: str) -> Callable[[], None]:
    """What each process of the job does first."""

    def begin() -> None:
        import hubdist.cluster.connection as actors
        import hubdist.cluster.coordinator.coordinator as coordinator

        if way == "idle":
            coordinator._DETACHED_IDLE_S = 2.0
        if way == "node lost":
            real = actors.driver_node
            actors.driver_node = lambda nodes, here: (
                next((node for node in nodes if node.id == doomed), None) or real(nodes, here)
            )

    return begin


def main(address: str, folder: Path, way: str, rules: str, url: str, doomed: str, head: str) -> None:
    """See above."""
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": hook_for(way, doomed)},
    )
    options = {"lifetime": "detached", "scheduling_strategy": NodeAffinitySchedulingStrategy(head, soft=False)}
    joined, fresh = (
        Asker.options(name=f"{way} {rules} {who}", **options).remote()  # type: ignore[attr-defined]  # ray's types
        for who in ("joined", "fresh")
    )
    ray.get(fresh.__ray_ready__.remote(), timeout=60)
    if way in ("idle", "node lost"):  # a coordinator that the driver makes does not end so
        ray.get(joined.begin.remote(settings(folder, rules, url)), timeout=60)
    else:
        hubdist.init(**settings(folder, rules, url))
    if rules == "loose":
        assert ray.get(joined.text_of.remote(f"{folder}/changing"), timeout=60) == "old"
    print("ready", flush=True)
    sys.stdin.readline()
    job_id = str(ray.get_runtime_context().get_job_id())
    if way == "shut down":
        hubdist.shutdown()
    elif way == "killed":
        ray.kill(find_coordinator(job_id), no_restart=False)
    elif way == "idle":
        while any(one["name"] == coordinator_name(job_id) for one in ray.util.list_named_actors(all_namespaces=True)):
            time.sleep(0.2)
    print("gone", flush=True)
    if way != "driver gone":
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
