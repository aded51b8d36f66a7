"""A job that tells, as one line of JSON, whether its driver and its workers have hubdist behind tensorflow_hub.

    python tests/support/hooked_workers.py [RUNTIME_ENV]

The argument is what the program itself gives to `ray.init`, as JSON.
"""

import json
import sys

import ray

CALLED = []


def own_hook() -> None:
    """Stand for the hook that a program had before."""
    CALLED.append("own_hook")


def state() -> dict[str, object]:
    """Whether hubdist waits for tensorflow_hub in this process, and whether the program's own hook was called."""
    installed = [finder for finder in sys.meta_path if type(finder).__name__ == "ImportWatch"]
    heavy = sorted({"tensorflow", "tensorflow_hub"} & set(sys.modules))
    here = sys.modules.get("tests.support.hooked_workers")
    return {"installed": len(installed), "imported": heavy, "called": getattr(here, "CALLED", [])}


if __name__ == "__main__":
    ray.init(runtime_env=json.loads(sys.argv[1]) if sys.argv[1:] else None, log_to_driver=False)
    worker = ray.get(ray.remote(state).remote(), timeout=120)
    print(json.dumps({"driver": state()["installed"], **worker}))
