"""A node that cannot see the driver's files: its own mount namespace, with empty disks over the driver's places."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import targz
from tests.support.ray_head import RAY, Head, end_family, ray_head

pytestmark = [pytest.mark.cluster, pytest.mark.root]

_FILES = {"saved_model.pb": os.urandom(2 << 20), "assets/vocabulary.txt": b"one\ntwo\n", "empty": b""}

_SCRIPT = """
import os, pathlib, sys, ray, hubdist

ray.init(address=os.environ["HEAD"], log_to_driver=False)

@ray.remote
def read(handle, driver_file):
    root = pathlib.Path(hubdist.resolve(handle))
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return os.path.exists(driver_file), files

for handle in sys.argv[2:]:
    near = ray.get(read.options(resources={"near": 1}).remote(handle, sys.argv[1]), timeout=90)
    far = ray.get(read.options(resources={"far": 1}).remote(handle, sys.argv[1]), timeout=90)
    assert near[0] and not far[0], (near[0], far[0])
    assert near[1] == far[1]
    print("files", len(far[1]), sum(map(len, far[1].values())))
print(hubdist.status())
"""


def _may_unshare() -> bool:
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=10, check=False)
    return done.returncode == 0


@contextlib.contextmanager
def far_node(head: Head, hidden: list[Path]) -> Iterator[None]:
    """A second node in a mount namespace where `hidden` directories are empty disks of its own."""
    mounts = "".join(f"mount -t tmpfs -o mode=700 tmpfs {path} && " for path in hidden)
    start = [*RAY, "start", f"--address={head.address}", "--block", "--num-cpus=1", "--disable-usage-stats"]
    start += ["--object-store-memory=100000000", '--resources={"far":1}']
    start += ["--min-worker-port=0", "--max-worker-port=0"]
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", f'{mounts} exec "$@"', "far", *start],
        env=head.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield
    finally:
        left = end_family(process)
    assert not left


def test_a_node_without_the_drivers_files_gets_path_archive_and_url(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not _may_unshare():
        pytest.skip("needs root and mount namespaces")
    driver = tmp_path / "driver"
    for path, data in _FILES.items():
        (driver / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (driver / "model" / path).write_bytes(data)
    (driver / "model.tar.gz").write_bytes(targz({**_FILES, "another.txt": b"another"}))
    (tmp_path / "cache").mkdir(mode=0o700)
    with ray_head(tmp_path, resources={"near": 1}) as head, far_node(head, [driver, tmp_path / "cache"]):
        done = subprocess.run(
            [
                *(sys.executable, "-c", textwrap.dedent(_SCRIPT), str(driver / "model.tar.gz")),
                *(str(driver / "model"), str(driver / "model.tar.gz")),
            ],
            env={**head.environment, "HEAD": head.address},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    size = sum(map(len, _FILES.values()))
    assert f"files 3 {size}" in done.stdout
    assert f"files 4 {size + 7}" in done.stdout
    assert done.stdout.count("origin read once") == 2
    assert done.stdout.count(": driver, ") == 2
