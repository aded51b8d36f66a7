"""The rules of the parts: imports point down, each package has one home, deciding modules are pure."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hubdist

ROOT = Path(hubdist.__file__).parent

LAYERS = [
    {"errors"},
    {"model", "system"},
    {"delivery", "remote", "store", "streams"},
    {"config", "export_file", "loading", "origins", "report", "shared_cache"},
    {"care", "health", "resolver"},
    {"cluster"},
    {"client", "testing", "__init__"},
    {"cli", "integrations"},
    {"__main__"},
]
"""From the bottom up. A module may import from layers below its own; a package is one part."""

HOMES = {
    "ray": {"cluster", "integrations", "testing"},
    "click": {"cli"},
    "rich": {"cli"},
    "jinja2": {"report"},
    "numpy": {"cluster", "delivery", "integrations", "loading"},
    "tensorflow": {"integrations", "loading"},
    "matplotlib": {"report"},
    "keras": {"integrations"},
    "tf_keras": {"loading"},
    "tensorflow_hub": {"integrations"},
    "fsspec": {"integrations", "remote"},
    "gcsfs": {"remote"},
    "huggingface_hub": {"origins", "integrations"},
    "kagglehub": {"origins", "integrations"},
    "aiohttp": {"remote"},
    "botocore": {"remote"},
    "google": {"remote"},
    "requests": {"origins", "testing"},
    "urllib3": {"origins"},
    "blake3": {"model"},
    "tenacity": {"system"},
    "pydantic": {"config"},
    "yaml": {"config"},
    "cloudpickle": {"cluster"},
    "starlette": {"integrations"},
}
"""Third-party package -> the only parts that import it."""

PURE = {"delivery"}
PURE_IMPORTS = {"__future__", "collections", "dataclasses", "enum", "itertools", "numpy", "typing", "hubdist"}
BROAD = {
    "cluster.coordinator.route_runner",
    "cluster.coordinator.agent_tasks",
    "cluster.coordinator.lifetime",
    "system.foreign",
}
"""The actors' loops, where any failure becomes an event; the boundaries to libraries, users' functions and callers."""

USERS_MODULE = "user_module"
"""What an import calls a module that the user's configuration names."""

MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(ROOT.rglob("*.py"))
}


def part(module: str) -> str:
    return module.partition(".")[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, anywhere in a file, also by name through importlib."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "find_spec")):
            named = node.args[0]
            if ast.unparse(named) == USERS_MODULE:
                continue
            choices = [named.body, named.orelse] if isinstance(named, ast.IfExp) else [named]
            assert all(isinstance(choice, ast.Constant) for choice in choices), "an import that cannot be checked"
            yield from (ast.literal_eval(choice) for choice in choices)


def test_every_module_has_a_layer() -> None:
    known = set().union(*LAYERS)
    assert {part(module) for module in MODULES} == known


def height(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    own = part(module)
    for name in imports(MODULES[module]):
        package, _, rest = name.partition(".")
        if package == "hubdist" and module != "__init__" and part(rest) not in (own, ""):
            assert height(part(rest)) < height(own), f"{module} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {
            other
            for name in imports(tree)
            for other in (name.removeprefix("hubdist."), name.removeprefix("hubdist.").rpartition(".")[0])
            if name.startswith("hubdist.") and other in MODULES and other != module
        }
        for module, tree in MODULES.items()
        if module != "__init__"
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", MODULES)
def test_each_third_party_package_has_one_home(module: str) -> None:
    for name in imports(MODULES[module]):
        package = name.partition(".")[0]
        if package != "hubdist" and package not in sys.stdlib_module_names:
            assert part(module) in HOMES[package], f"{module} imports {name}"


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) in PURE])
def test_modules_that_decide_are_pure(module: str) -> None:
    for name in imports(MODULES[module]):
        assert name.partition(".")[0] in PURE_IMPORTS, f"{module} imports {name}"
        if name.startswith("hubdist"):
            allowed = ("hubdist.errors.", f"hubdist.{part(module)}.", "hubdist.model.manifest.BLOCK_BYTES")
            assert name.startswith(allowed), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_only_config_reads_the_environment(module: str) -> None:
    if part(module) == "config" or part(module) == "testing":
        return
    for node in ast.walk(MODULES[module]):
        name = node.attr if isinstance(node, ast.Attribute) else node.name if isinstance(node, ast.alias) else ""
        assert name not in ("environ", "environb", "getenv", "getenvb", "putenv"), f"{module}:{node.lineno}"


def goes_on(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise):
        return node.exc is None
    return isinstance(node, ast.Attribute) and node.attr == "set_exception"


@pytest.mark.parametrize("module", MODULES)
def test_broad_excepts_stand_only_where_an_actor_turns_a_failure_into_an_event(module: str) -> None:
    for node in ast.walk(MODULES[module]):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "everything" if node.type is None else ast.unparse(node.type)
        assert caught != "everything", f"{module}:{node.lineno}"
        if caught == "BaseException":  # to tidy up, or to hand it to another thread; it must go on
            assert any(goes_on(inner) for inner in ast.walk(node.body[-1])), f"{module}:{node.lineno}"
        if caught == "Exception":
            assert module in BROAD, f"{module}:{node.lineno}"


def test_no_module_is_named_for_nothing() -> None:
    names = {name for module in MODULES for name in module.split(".")}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc", "manager"}


def test_the_actor_decorator_is_applied_in_one_place() -> None:
    homes = {
        module
        for module, tree in MODULES.items()
        if part(module) != "testing"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "ray.remote"
    }
    assert homes == {"cluster.connection"}


_LOOK = """
import json, sys
before = set(sys.modules)
import hubdist
loaded = sorted({name.partition(".")[0] for name in sys.modules} - {name.partition(".")[0] for name in before})
print(json.dumps({"loaded": loaded, "names": dir(hubdist), "all": hubdist.__all__}))
"""


@pytest.fixture(scope="module")
def after_import() -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_importing_the_package_loads_nothing_heavy(after_import: dict[str, list[str]]) -> None:
    third_party = set(after_import["loaded"]) - sys.stdlib_module_names - {"hubdist"}
    assert not third_party


def test_the_namespace_is_the_documented_one(after_import: dict[str, list[str]]) -> None:
    assert after_import["names"] == after_import["all"]
    assert set(after_import["all"]) == {
        "Config",
        "HubdistError",
        "Plan",
        "Refreshed",
        "Report",
        "Source",
        "SourceFile",
        "Status",
        "WhatIf",
        "__version__",
        "errors",
        "export_models",
        "import_models",
        "init",
        "keep",
        "load",
        "load_async",
        "plan",
        "prefetch",
        "refresh",
        "release",
        "resolve",
        "resolve_async",
        "shutdown",
        "status",
        "unload",
        "where",
    }


def test_every_public_name_is_there() -> None:
    for name in hubdist.__all__:
        assert getattr(hubdist, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hubdist.nothing  # noqa: B018
