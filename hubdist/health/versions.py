"""Versions on all nodes: hubdist, Python, Ray, TensorFlow, and the packages that the handles' schemes need."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hubdist.health.finding import Finding, Level
from hubdist.model.handle import Kind, parse_handle
from hubdist.remote.packages import PACKAGES

TENSORFLOW = "tensorflow|tensorflow-cpu|tensorflow-tpu|tf-nightly|tensorflow-intel"
"""Names under which a package index has TensorFlow; the first stands for all."""

REQUIRED = (
    *(
        "blake3",
        "click",
        "cloudpickle",
        "fsspec",
        "gcsfs",
        "jinja2",
        "numpy",
        "pydantic",
        "pyyaml",
        "ray",
        "requests",
        "rich",
    ),
    *("tenacity", "urllib3"),
)
"""The packages that hubdist itself needs, as `pyproject.toml` lists them."""

PACKAGES_EVERYWHERE = (*REQUIRED, TENSORFLOW)
_REST = "; its store, port and origins are not checked"
_SHOWN = ("ray", "tensorflow", "fsspec", "gcsfs")


def needed_packages(texts: Sequence[str], custom_schemes: Collection[str] = ()) -> dict[str, str]:
    """The packages that handles need: package -> the kind of handle, as `s3://`.

    Args:
        texts: Normalised handles and directories.
        custom_schemes: Schemes of own origins.
    """
    needed = {}
    for text in texts:
        handle = parse_handle(text, custom_schemes=custom_schemes)
        base = handle.root
        package = "kagglehub" if base.kind is Kind.KAGGLE else PACKAGES.get(base.scheme)
        if package is not None and base.kind is not Kind.CUSTOM:
            needed[package] = f"{base.scheme}://"
    return needed


def judge_versions(
    node: str, facts: Mapping[str, Any], here: Mapping[str, Any], needed: Mapping[str, str], *, reads_origins: bool
) -> list[Finding]:
    """Judge what a node has.

    Args:
        node: The node's name.
        facts: What `machine.read_facts` returned there.
        here: The same of the process that asks.
        needed: Package -> the kind of handle that needs it.
        reads_origins: True for the driver's node, which must read every handle.
    """
    problems = [
        *_judge_hubdist(node, facts["hubdist"], here["hubdist"]),
        *_judge_python(node, facts["python"], here["python"]),
        *_judge_packages(node, facts["packages"], here["packages"]),
        *_judge_required(node, facts),
        *_judge_needed(node, facts["packages"], needed, reads_origins=reads_origins),
    ]
    if facts["missing"]:
        names = ", ".join(facts["missing"])
        mend = f"Install the package that has {names} on this node, or name it in runtime_env."
        problems.append(Finding("versions", Level.FAIL, node, f"cannot import {names}, which `imports` lists", mend))
    if problems:
        return problems
    named = [f"{name} {facts['packages'][name]}" for name in _SHOWN if facts["packages"].get(name)]
    found = ", ".join([f"hubdist {facts['hubdist']}", f"Python {facts['python']}", *named])
    return [Finding("versions", Level.OK, node, found)]


def _judge_hubdist(node: str, found: str | None, here: str | None) -> list[Finding]:
    install = f"Install hubdist {here} on this node, or name it in runtime_env."
    if found is None:
        return [Finding("versions", Level.FAIL, node, f"hubdist is missing{_REST}", install)]
    if found != here:
        what = f"hubdist {found}, but {here} where this command runs{_REST}"
        return [Finding("versions", Level.FAIL, node, what, install)]
    return []


def _judge_required(node: str, facts: Mapping[str, Any]) -> list[Finding]:
    missing = [name for name in REQUIRED if facts["packages"].get(name) is None]
    if not missing or facts["hubdist"] is None:
        return []
    found = f"hubdist cannot work here without {', '.join(missing)}"
    return [Finding("versions", Level.FAIL, node, found, f"Run there: pip install {' '.join(missing)}")]


def _judge_python(node: str, found: str, here: str) -> list[Finding]:
    if found == here:
        return []
    level = Level.WARN if found.rpartition(".")[0] == here.rpartition(".")[0] else Level.FAIL
    mend = f"Use Python {here} on all nodes: Ray and pickles want the same one."
    return [Finding("versions", level, node, f"Python {found}, but {here} where this command runs", mend)]


def _judge_packages(node: str, found: Mapping[str, str | None], here: Mapping[str, str | None]) -> list[Finding]:
    problems = []
    for package, level in (("ray", Level.FAIL), ("tensorflow", Level.WARN)):
        own, other = found.get(package), here.get(package)
        if own is not None and other is not None and _minor(own) != _minor(other):
            what = f"{package} {own}, but {other} where this command runs"
            problems.append(Finding("versions", level, node, what, f"Install the same {package} everywhere."))
    if found.get("tensorflow") is None:
        what = "TensorFlow is missing: hubdist.load fails here, hubdist.resolve works"
        problems.append(Finding("versions", Level.WARN, node, what, "Install tensorflow, or tensorflow-cpu."))
    return problems


def _judge_needed(
    node: str, found: Mapping[str, str | None], needed: Mapping[str, str], *, reads_origins: bool
) -> list[Finding]:
    problems = []
    for package, kind in needed.items():
        if found.get(package) is not None or (package == "kagglehub" and not reads_origins):
            continue
        what = f"the package {package} is missing, which {kind} needs"
        if reads_origins:
            mend = f"Run there: pip install {package}"
            problems.append(Finding("versions", Level.FAIL, node, f"{what}; this node reads the origin", mend))
        else:
            mend = f"Nothing, if bytes may come from other nodes. Otherwise run there: pip install {package}"
            problems.append(Finding("versions", Level.WARN, node, f"{what} to be read by this node itself", mend))
    return problems


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
