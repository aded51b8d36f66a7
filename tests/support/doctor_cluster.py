"""A Ray cluster whose nodes each have faults of their own, and what `hubdist doctor` says of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.support import REPOSITORY
from tests.support.ray_head import RAY, _wait_until_started, end_family

Findings = list[dict[str, Any]]


def doctor(
    *arguments: str,
    environment: Mapping[str, str],
    timeout_s: float = 120,
    before: str = "",
    inside: Sequence[str] = (),
) -> tuple[int, str, str]:
    """Run `hubdist doctor` as a user does; exit code, output and errors.

    The working directory is not the repository's: Ray would put it in front of the nodes' own paths.
    """
    command = [*inside, sys.executable, "-m", "hubdist", "doctor", *arguments]
    if before:
        command = ["bash", "-c", f'{before}; exec "$@"', "doctor", *command]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": path},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def findings_of(out: str) -> Findings:
    found: Findings = json.loads(out)["findings"]
    return found


def only(findings: Findings, check: str, node: str | None = None) -> dict[str, Any]:
    """The one finding of a check on a node that is not well."""
    found = [
        each
        for each in findings
        if each["check"] == check and each["level"] != "ok" and (node is None or each["node"] == node)
    ]
    assert len(found) == 1, found
    return found[0]


@contextlib.contextmanager
def ray_node(
    environment: Mapping[str, str], *options: str, before: Sequence[str] = (), inside: Sequence[str] = ()
) -> Iterator[None]:
    """A node that `ray start` makes.

    Args:
        environment: Of the node.
        *options: Of `ray start`.
        before: Commands of a shell that the node's process runs first.
        inside: A command in front of the shell, such as `unshare --mount`.
    """
    start = [*RAY, "start", "--block", "--num-cpus=1", "--disable-usage-stats", "--object-store-memory=80000000"]
    start += ["--min-worker-port=0", "--max-worker-port=0", *options]
    script = " && ".join([*before, 'exec "$@"'])
    process = subprocess.Popen(
        [*inside, "bash", "-c", script, "node", *start],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_until_started(process)  # one after another: on a small machine, several at once take too long to start
        yield
    finally:
        left = end_family(process)
    assert not left


_NAMES = """
import json, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
wanted, deadline = set(sys.argv[2:]), time.monotonic() + 40
while time.monotonic() < deadline:
    names = {
        kind: f"{node['NodeManagerAddress']}/{node['NodeID'][:8]}"
        for node in ray.nodes() if node["Alive"] for kind in wanted & set(node["Resources"])
    }
    if set(names) == wanted:
        break
    time.sleep(0.2)
print(json.dumps(names))
"""


def names_of(address: str, environment: Mapping[str, str], *resources: str) -> dict[str, str]:
    """Resource -> name of the node that has it, once all are there."""
    done = subprocess.run(
        [sys.executable, "-c", _NAMES, address, *resources],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    names: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert set(names) == set(resources), f"nodes that did not start: {set(resources) - set(names)}"
    return names
