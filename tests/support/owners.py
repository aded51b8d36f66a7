"""Other users, and directories that they can reach."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hubdist.system.directories import remove_tree

ME, OTHER, GROUP = 1000770000, 1000660000, 2000
"""Users whom no passwd file knows, as a cluster hands them out, and the group of a volume."""

PRELUDE = """
import logging, os, sys
from pathlib import Path
import hubdist
from hubdist.errors import HubdistError
from hubdist.model.manifest import Digest
from hubdist.store.store import Store

root = Path(sys.argv[1])

def attempt(work):
    try:
        print(work())
    except HubdistError as error:
        print(type(error).__name__, error)

def publish(store, data=b"model"):
    with store.stage() as stage:
        with stage.open_file("saved_model.pb") as file:
            file.write(data)
        return store.publish(stage)
"""


_INHERITED = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


@functools.cache
def _may_be_another_user() -> bool:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    command = [*_become(ME), sys.executable, "-c", "import hubdist"]
    done = subprocess.run(command, env=_INHERITED, cwd="/", capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def _become(user: int) -> list[str]:
    return ["setpriv", f"--reuid={user}", "--regid=0", f"--groups=0,{GROUP}", "--"]


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that every user can look into, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="owners-"))
    folder.chmod(0o755)
    yield folder
    remove_tree(folder)


def run_as(user: int, script: str, *arguments: object, before: Sequence[str] = (), **environment: str) -> str:
    """Run a script as a user with an environment of its own, behind what `before` does first; what it prints."""
    if not _may_be_another_user():
        pytest.skip("needs root, setpriv, and a Python that other users may run")
    done = subprocess.run(
        [*before, *_become(user), sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
        env=_INHERITED | environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() + "\n" + done.stderr.strip()
