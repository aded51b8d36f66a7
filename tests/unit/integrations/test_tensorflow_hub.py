"""What installing hubdist behind tensorflow_hub does where tensorflow_hub is not imported, or cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hubdist
from hubdist.integrations import tensorflow_hub
from hubdist.integrations.setup_hooks import with_setup_hook
from tests.support.legacy import LEGACY, legacy_environment

KEY = "worker_process_setup_hook"


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    before = list(sys.meta_path)
    yield
    tensorflow_hub.uninstall()
    assert sys.meta_path == before


_INSTALL = """
import json, sys
before = {name.partition(".")[0] for name in sys.modules}
import hubdist.integrations.tensorflow_hub
hubdist.integrations.tensorflow_hub.install()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} - before)))
"""


def test_what_each_worker_does_at_its_start_loads_no_other_package() -> None:
    done = subprocess.run([sys.executable, "-c", _INSTALL], capture_output=True, text=True, timeout=60, check=True)
    assert set(json.loads(done.stdout)) - sys.stdlib_module_names == {"hubdist"}


def test_everywhere_is_this_process_and_the_workers() -> None:
    assert tensorflow_hub.install_everywhere() == {KEY: "hubdist.integrations.tensorflow_hub.install"}
    assert tensorflow_hub.install_everywhere({"pip": ["x"]})["pip"] == ["x"]
    watches = [finder for finder in sys.meta_path if type(finder).__name__ == "ImportWatch"]
    assert len(watches) == 1


def test_the_name_for_runtime_env_is_that_of_the_function() -> None:
    environment = with_setup_hook({KEY: tensorflow_hub.uninstall}, tensorflow_hub.SETUP_HOOK)
    environment[KEY]()
    assert any(type(finder).__name__ == "ImportWatch" for finder in sys.meta_path)


@pytest.mark.parametrize(
    "handle",
    [
        "https://tfhub.dev/google/nnlm/1",
        "http://host/model.tar.gz",
        "gs://bucket/dir",
        "gs://bucket/model.tgz",
        "hf://org/name",
        "zip://inner::https://host/model.zip",
        "/nowhere/on/this/node",
        "file:///nowhere/on/this/node",
    ],
)
def test_urls_and_paths_of_the_driver_are_brought_by_hubdist(handle: str) -> None:
    assert tensorflow_hub.HubdistResolver().is_supported(handle)


@pytest.mark.parametrize(
    "handle", ["ram://model", "viewfs://x/y", "relative/path", "~/model", "", 0, None, b"/nowhere", Path("/nowhere")]
)
def test_all_else_is_left_to_tensorflow_hub(handle: object) -> None:
    assert not tensorflow_hub.HubdistResolver().is_supported(handle)


@pytest.mark.parametrize("scheme", ["", "file://", "file://localhost"])
def test_what_is_on_this_node_is_opened_where_it_is(tmp_path: Path, scheme: str) -> None:
    assert not tensorflow_hub.HubdistResolver().is_supported(f"{scheme}{tmp_path}")


def test_the_chinese_hub_is_read_where_tensorflow_hub_reads_it_and_errors_are_os_errors(tmp_path: Path) -> None:
    hubdist.init(store=str(tmp_path), offline=True)
    archive = r"https://gcs\.tensorflow\.google\.cn/tfhub-modules/google/bit/1\.tar\.gz"
    with pytest.raises(OSError, match=archive) as caught:
        tensorflow_hub.HubdistResolver()("https://hub.tensorflow.google.cn/google/bit/1")
    assert isinstance(caught.value.__cause__, hubdist.errors.NotPinnedError)


_IMPORT = """
import hubdist.integrations.tensorflow_hub
hubdist.integrations.tensorflow_hub.install()
try:
    import tensorflow_hub
except ImportError as error:
    print(type(error).__name__, error.name, error)
"""


def test_an_installation_that_tensorflow_hub_cannot_live_with_is_explained(tmp_path: Path) -> None:
    environment = legacy_environment(str(tmp_path))
    (tmp_path / "tensorflow.py").write_text("", encoding="utf-8")  # of which nothing is used before the error
    lacks = "raise ModuleNotFoundError('No module named pkg_resources', name='pkg_resources')"
    (tmp_path / "pkg_resources.py").write_text(lacks, encoding="utf-8")  # as with setuptools 82
    (tmp_path / "tensorflow_hub").symlink_to(LEGACY / "tensorflow_hub")

    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], capture_output=True, text=True, timeout=60, check=True, env=environment
    )

    assert done.stdout.startswith("ModuleNotFoundError pkg_resources tensorflow_hub cannot be imported: it needs")
    assert "Install 'setuptools<81' on this node" in done.stdout
