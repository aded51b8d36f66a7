"""What a kill costs: `hubdist export` and `hubdist import` of one model, each killed at ten places and started again.

    python benchmarks/export_killed.py --mib 1024

The commands run as people run them, and get SIGKILL from outside when they have come so far: the export when its file
has grown, the import when it has read so much. As root, the import runs in a network namespace of its own, which has no
network. The table says how much each try found of the earlier ones. The last line says whether the digest is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PLACES = 10
POLL_S = 0.002
HUBDIST = [sys.executable, "-m", "hubdist"]
MIB = 1 << 20


def run(command: list[str], reached: Callable[[subprocess.Popen[bytes]], bool] | None) -> tuple[int, float, bytes]:
    """Run a command, and kill it once it has come so far; its exit code, its seconds and its output."""
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        while reached is not None and process.poll() is None:
            if reached(process):
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(POLL_S)
        out, _ = process.communicate(timeout=600)
    return process.returncode, time.monotonic() - begin, out


def bytes_read(process: subprocess.Popen[bytes], file: Path) -> int:
    """How far a process, or a child of it, has read a file; 0 if it has not opened it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        for pid in (str(process.pid), *children.read_text().split()):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                if link.readlink() == file:
                    text = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
                    return int(text.split()[1])
    except OSError:
        pass
    return 0


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a directory."""
    sizes = 0
    for file in folder.rglob("*"):
        try:
            sizes += file.stat().st_blocks * 512
        except OSError:
            continue
    return sizes


def row(what: str, killed_at: int | None, found: int, seconds: float) -> None:
    """Print a line of the table; `killed_at` None is a command that came to its end."""
    at = "whole" if killed_at is None else f"{killed_at / MIB:.0f} MiB"
    print(f"{what:12}{at:>12}{found / MIB:>8.0f} MiB{seconds:>10.2f}", flush=True)


def export_killed(root: Path, total: int) -> str:
    """Export the model, with ten kills; its digest."""
    target, part = root / "export.tar", root / "export.tar.part"
    source = ["--address", "local", "--set", f"store={root}/from", "--json"]
    command = [*HUBDIST, "export", str(target), str(root / "model"), *source]
    subprocess.run([*HUBDIST, "resolve", str(root / "model"), *source], check=True, stdout=subprocess.DEVNULL)
    for number in range(1, PLACES + 1):
        found = part.stat().st_size if part.exists() else 0
        limit = total * number // (PLACES + 1)
        code, seconds, _ = run(command, lambda _, at=limit: part.exists() and part.stat().st_size >= at)
        assert code == -signal.SIGKILL, f"the export ended with {code} before it could be killed"
        row("export", part.stat().st_size, found, seconds)
    code, seconds, out = run(command, None)
    assert code == 0, out
    report = json.loads(out)
    row("export", None, report["kept_bytes"], seconds)
    return str(report["models"][0]["digest"])


def import_killed(root: Path, total: int, inside: list[str]) -> str:
    """Import the file, with ten kills; the digest of the model."""
    target, store = root / "export.tar", root / "to"
    options = ["--address", "local", "--set", f"store={store}", "--json"]
    command = [*inside, *HUBDIST, "import", str(target), *options]
    for number in range(1, PLACES + 1):
        found, limit = bytes_in(store / "staging"), total * number // (PLACES + 1)
        code, seconds, _ = run(command, lambda process, at=limit: bytes_read(process, target) >= at)
        assert code == -signal.SIGKILL, f"the import ended with {code} before it could be killed"
        assert not list((store / "snapshots").iterdir()), "a killed import has published a model"
        row("import", bytes_in(store / "staging"), found, seconds)
    code, seconds, out = run(command, None)
    assert code == 0, out
    report = json.loads(out)
    row("import", None, report["kept_bytes"], seconds)
    return str(report["models"][0]["digest"])


def main() -> None:
    """Make a model, export and import it, and compare the digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the model")
    mib = parser.parse_args().mib
    with tempfile.TemporaryDirectory(prefix="export-killed-") as folder:
        root = Path(folder)
        (root / "model").mkdir()
        with (root / "model" / "saved_model.pb").open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
        print(f"{'':12}{'killed at':>12}{'found':>12}{'seconds':>10}")
        exported = export_killed(root, mib * MIB)
        inside = ["unshare", "--net", "--"] if os.geteuid() == 0 else []
        imported = import_killed(root, mib * MIB, inside)
        network = "without a network" if inside else "with the network of this machine (no root)"
        print(f"{'the same digest' if exported == imported else 'ANOTHER DIGEST'}, {imported}, imported {network}")


if __name__ == "__main__":
    main()
