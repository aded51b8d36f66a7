"""Users whose home is not known, is not there or cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubdist.errors import ConfigError
from hubdist.paths import expand_home
from tests.owners import ME, PRELUDE, base, run_as

__all__ = ["base"]  # a fixture


@pytest.mark.root
@pytest.mark.parametrize("home", [None, "/", "/home/nobody-here", "relative"])
def test_a_user_without_a_home_is_told_what_to_set(base: Path, home: str | None) -> None:
    environment = {} if home is None else {"HOME": home}
    said = run_as(ME, "attempt(lambda: hubdist.resolve('/models/x'))", base, **environment)
    assert said.startswith("StoreError")
    assert f"Set store (HUBDIST_STORE) to a directory that user {ME} may write to, such as /tmp/hubdist-{ME}." in said


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("HUBDIST_LOCK_FILE", "lock_file"),
        ("HUBDIST_TFHUB_CACHE_DIR", "tfhub_cache_dir (TFHUB_CACHE_DIR)"),
        ("HUBDIST_CONFIG", "HUBDIST_CONFIG"),
    ],
)
def test_a_path_below_a_home_that_is_not_known_names_its_setting(base: Path, name: str, setting: str) -> None:
    base.chmod(0o777)
    environment = {"HUBDIST_STORE": str(base / "store"), name: "~/file"}
    said = run_as(ME, "attempt(lambda: hubdist.resolve('/models/x'))", base, **environment)
    assert said.startswith(f"ConfigError no home directory is known for '~/file', the value of {setting}")
    assert f"Set {setting} to an absolute path" in said


@pytest.mark.root
def test_on_a_read_only_root_the_advice_is_a_volume(base: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root and mount namespaces")
    script = PRELUDE + "attempt(lambda: hubdist.resolve('/models/x'))"
    remount = "for place in /tmp /var/tmp; do mount --bind $place $place && mount -o remount,bind,ro $place; done"
    become = f'exec setpriv --reuid={ME} --regid=0 --clear-groups -- "$@"'
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "bash", "-c", f"{remount}; {become}", "pod"),
            *(sys.executable, "-c", script, str(base)),
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HOME": str(base / "home")},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("StoreError the file system is read-only")
    assert "such as the mount of a volume." in done.stdout


def test_other_users_homes_are_expanded_and_unknown_users_are_a_typed_error() -> None:
    assert expand_home("~root/models", "store") == Path("/root/models")
    with pytest.raises(ConfigError, match="'~nobody-of-this-name/models', the value of lock_file"):
        expand_home("~nobody-of-this-name/models", "lock_file")
    assert expand_home("hubdist.lock", "lock_file") == Path("hubdist.lock")
