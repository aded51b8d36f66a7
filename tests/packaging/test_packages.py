"""The wheel and the source distribution, each installed into a fresh environment of every Python of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MODEL_WHEEL = REPOSITORY / "build/demo/basic_pitch-0.4.0-py2.py3-none-any.whl"
VERSIONS = ("3.11", "3.12", "3.13")
RESOLVE = """
import importlib.util, pathlib, sys
import hubdist

assert importlib.util.find_spec("tensorflow") is None
path = pathlib.Path(hubdist.resolve(sys.argv[1]))
print((path / "saved_model.pb").read_text(), pathlib.Path(hubdist.__file__).is_relative_to(sys.prefix))
"""


def find_pythons() -> dict[str, str]:
    """Version -> executable of the Pythons that run here; a version manager's stand-in may be there and not run."""
    found = {}
    for version in VERSIONS:
        executable = shutil.which(f"python{version}")
        if executable is not None and call([executable, "-c", "import ensurepip, venv"]).returncode == 0:
            found[version] = executable
    return found or {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}


def call(command: list[str], *, where: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program outside of the checkout, and without what leads to it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HUBDIST_"))}
    return subprocess.run(
        command, cwd=where, env={**kept, **variables}, capture_output=True, text=True, timeout=600, check=False
    )


def run(command: list[str], *, where: Path, **variables: str) -> str:
    done = call(command, where=where, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel, made from the source distribution, and that."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", str(folder), str(REPOSITORY)], where=folder)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The Python of a new environment, which is removed afterwards: it holds two gigabytes."""
    run([request.param, "-m", "venv", str(tmp_path / "environment")], where=tmp_path)
    yield tmp_path / "environment" / "bin" / "python"
    shutil.rmtree(tmp_path / "environment")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where uv keeps what it has downloaded, for the other Pythons and the other package."""
    folder = tmp_path_factory.mktemp("downloads")
    yield str(folder)
    shutil.rmtree(folder)


def install(python: Path, what: str, downloads: str) -> None:
    """Install by uv, which takes a quarter of pip's processor time; pip reads the same wheels."""
    options = ["--quiet", "--system-certs", "--constraint", str(REPOSITORY / "constraints.txt")]
    command = [sys.executable, "-m", "uv", "pip", "install", "--python", str(python), *options, what]
    run(command, where=python.parent, UV_CACHE_DIR=downloads)


PYTHONS = find_pythons()
EVERY_PYTHON = pytest.mark.parametrize("fresh", PYTHONS.values(), ids=PYTHONS.keys(), indirect=True)


def test_the_wheel_has_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    names = zipfile.ZipFile(built[".whl"]).namelist()
    inside = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "hubdist").rglob("*") if path.is_file()}
    wanted = {name for name in inside if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_source_distribution_has_what_tests_and_documentation_need(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("hubdist", "examples", "configs", "tests", "docs")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    ours = [str(path.relative_to(REPOSITORY)) for path in files if "__pycache__" not in path.parts]
    assert [name for name in ours if name not in names] == []


@EVERY_PYTHON
def test_the_quickstart_runs_with_the_wheel_outside_of_the_checkout(
    built: dict[str, Path], fresh: Path, downloads: str, tmp_path: Path
) -> None:
    if not MODEL_WHEEL.exists():
        pytest.skip("the demo's wheel is missing: run make demo, or make test")
    install(fresh, f"{built['.whl']}[tf-cpu,plot]", downloads)
    run(
        [str(fresh), "-c", "import tensorflow"], where=tmp_path
    )  # once, and not in every node at the same time: byte code
    shutil.copy(REPOSITORY / "examples/quickstart.py", tmp_path)
    shown = run([str(fresh), "quickstart.py", str(MODEL_WHEEL), "--out", "out"], where=tmp_path)
    assert "the origin was read once" in shown
    assert shown.count(": driver, 1.3 MB from ") == 2
    assert "24 played, 24 of them found" in shown
    assert (tmp_path / "out/piano-roll.png").stat().st_size > 20_000


@EVERY_PYTHON
def test_the_source_distribution_resolves_without_tensorflow(
    built: dict[str, Path], fresh: Path, downloads: str, tmp_path: Path
) -> None:
    install(fresh, str(built[".gz"]), downloads)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/saved_model.pb").write_text("graph", encoding="utf-8")
    model = str(tmp_path / "model")
    assert run([str(fresh), "-c", RESOLVE, model], where=tmp_path).split() == ["graph", "True"]
    path = run([str(fresh.parent / "hubdist"), "resolve", "--quiet", "--address", "local", model], where=tmp_path)
    assert Path(path.strip(), "saved_model.pb").read_text(encoding="utf-8") == "graph"
