"""Users whose home is not known, is not there or cannot be written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hubdist.errors import ConfigError
from hubdist.model.paths import expand_home
from tests.support.owners import ME, base, run_as

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
        ("HUBDIST_LOCK_FILE", "lock_file (HUBDIST_LOCK_FILE)"),
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
    remount = "for place in /tmp /var/tmp; do mount --bind $place $place && mount -o remount,bind,ro $place; done"
    pod = ("unshare", "--mount", "--propagation", "private", "bash", "-c", f'{remount}; exec "$@"', "pod")
    said = run_as(ME, "attempt(lambda: hubdist.resolve('/models/x'))", base, before=pod, HOME=str(base / "home"))
    assert said.startswith("StoreError the file system is read-only")
    assert "such as the mount of a volume." in said


def test_other_users_homes_are_expanded_and_unknown_users_are_a_typed_error() -> None:
    assert expand_home("~root/models", "store") == Path("/root/models")
    with pytest.raises(ConfigError, match="'~nobody-of-this-name/models', the value of lock_file"):
        expand_home("~nobody-of-this-name/models", "lock_file")
    assert expand_home("hubdist.lock", "lock_file") == Path("hubdist.lock")
