"""A process that exports or imports a model and kills itself on the way, with a signal that nobody can catch.

    python -m tests.support.export_killed export|import FILE STORE HANDLE WHERE

WHERE is `bytes:<how many are done>`, `<function of os>:<number of the call>` or `never`. It prints how many bytes it
kept of earlier tries, and the model's digest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hubdist


def killed(way: str, file: Path, store: Path, handle: str, where: str) -> bool:
    """Run such a process; True if it was killed, False if it came to its end.

    Args:
        way: `export` or `import`.
        file: The export.
        store: The store to export from, or to import into.
        handle: The model's handle.
        where: Where it kills itself, as above.
    """
    command = [sys.executable, "-m", "tests.support.export_killed", way, str(file), str(store), handle, where]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_in(name: str, count: int) -> None:
    real = getattr(os, name)
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            _die()
        return real(*arguments, **named)

    setattr(os, name, call)


def main(way: str, file: str, store: str, handle: str, where: str) -> None:
    """Export or import, and die."""
    hubdist.init(store=store)
    if way == "export":
        hubdist.resolve(handle)
    what, _, number = where.partition(":")
    if what not in ("bytes", "never"):
        _die_in(what, int(number))

    def progress(done: int, _total: int) -> None:
        if what == "bytes" and done >= int(number):
            _die()

    if way == "export":
        report = hubdist.export_models(file, handle, progress=progress)
    else:
        report = hubdist.import_models(file, progress=progress)
    print(report.kept_bytes, report.models[0].digest)


if __name__ == "__main__":
    main(*sys.argv[1:])
