"""How what nodes have measured is judged: which of it is a fault, whose, and what to do."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from hubdist.config.schema import Config
from hubdist.errors import HubdistError, TransferTimeoutError
from hubdist.health import machine as machine_module
from hubdist.health import probe as probe_module
from hubdist.health.clocks import Offset, judge_clocks, measure_offset
from hubdist.health.examination import Patience, Target, examine
from hubdist.health.finding import Finding, Level, size_words
from hubdist.health.limits import judge_descriptors, judge_memory, judge_shared_memory
from hubdist.health.machine import read_facts, read_memory
from hubdist.health.places import examine_places, judge_other_node, places_of
from hubdist.health.ports import choose_pairs, judge_ports, open_port, try_ports
from hubdist.health.stores import Speed, examine_store, judge_space, judge_speed
from hubdist.health.versions import REQUIRED, judge_versions, needed_packages
from hubdist.testing.hub import LoopbackHub
from tests.support import REPOSITORY

MIB, GIB = 1 << 20, 1 << 30


def facts(**changes: Any) -> dict[str, Any]:
    packages = dict.fromkeys(REQUIRED, "1") | {"ray": "2.60.0", "tensorflow": "2.21.0"} | changes.pop("packages", {})
    return {"hubdist": "1.0", "python": "3.11.7", "packages": packages, "missing": []} | changes


# Versions


@pytest.mark.parametrize(
    ("changes", "level", "word"),
    [
        ({"hubdist": None}, Level.FAIL, "hubdist is missing"),
        ({"hubdist": "0.9"}, Level.FAIL, "hubdist 0.9, but 1.0"),
        ({"python": "3.12.1"}, Level.FAIL, "Python 3.12.1"),
        ({"python": "3.11.9"}, Level.WARN, "Python 3.11.9"),
        ({"packages": {"ray": "2.59.0"}}, Level.FAIL, "ray 2.59.0"),
        ({"packages": {"tensorflow": "2.20.0"}}, Level.WARN, "tensorflow 2.20.0"),
        ({"packages": {"tensorflow": None}}, Level.WARN, "TensorFlow is missing"),
        ({"packages": {"tenacity": None}}, Level.FAIL, "cannot work here without tenacity"),
        ({"missing": ["tensorflow_text"]}, Level.FAIL, "cannot import tensorflow_text"),
    ],
)
def test_a_node_that_differs_is_found_with_what_to_do(changes: dict[str, Any], level: Level, word: str) -> None:
    (found,) = judge_versions("n", facts(**changes), facts(), {}, reads_origins=True)
    assert found.level is level
    assert word in found.found
    assert found.mend


def test_equal_nodes_are_well() -> None:
    (found,) = judge_versions("n", facts(), facts(), {}, reads_origins=False)
    assert found.level is Level.OK
    assert "tensorflow 2.21.0" in found.found


def test_what_hubdist_requires_is_what_it_is_installed_with() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(REQUIRED) == sorted(re.split(r"[\[>=<~! ]", each)[0] for each in project["dependencies"])


@pytest.mark.parametrize(("reads_origins", "level"), [(True, Level.FAIL), (False, Level.WARN)])
def test_a_missing_package_is_a_failure_only_where_origins_are_read(reads_origins: bool, level: Level) -> None:
    needed = needed_packages(["s3://bucket/dir", "zip://x::s3://bucket/a.zip", "/models/one", "https://hub/m/1"])
    assert needed == {"s3fs": "s3://"}
    (found,) = judge_versions("n", facts(packages={"s3fs": None}), facts(), needed, reads_origins=reads_origins)
    assert found.level is level
    assert "pip install s3fs" in (found.mend or "")


def test_kaggle_is_no_concern_of_other_nodes() -> None:
    needed = needed_packages(["kaggle://a/b/tensorFlow2/c/1"])
    assert needed == {"kagglehub": "kaggle://"}
    (found,) = judge_versions("n", facts(packages={"kagglehub": None}), facts(), needed, reads_origins=False)
    assert found.level is Level.OK


# Clocks


def test_the_quickest_exchange_decides() -> None:
    offset = measure_offset([(0.0, 60.0, 8.0), (10.0, 110.5, 11.0)])
    assert offset == Offset(100.0, 0.5)


@pytest.mark.parametrize(
    ("seconds", "doubt_s", "level"),
    [(0.1, 0.01, Level.OK), (4.0, 0.1, Level.WARN), (4.0, 2.0, Level.OK), (-3600.0, 0.1, Level.FAIL)],
)
def test_a_clock_is_judged_by_what_is_sure(seconds: float, doubt_s: float, level: Level) -> None:
    findings = judge_clocks({"well": Offset(0, 0.01), "n": Offset(seconds, doubt_s)})
    assert {each.node: each.level for each in findings} == {"well": Level.OK, "n": level}


def test_a_driver_whose_clock_is_off_is_not_blamed_on_the_nodes() -> None:
    findings = judge_clocks({name: Offset(3600.0, 0.01) for name in "abc"})
    bad = [each for each in findings if each.level is not Level.OK]
    assert [each.node for each in bad] == ["the driver's machine"]
    assert "60 min behind" in bad[0].found


# Limits


@pytest.mark.parametrize(("soft", "level"), [(64, Level.FAIL), (512, Level.WARN), (1024, Level.OK), (-1, Level.OK)])
def test_few_descriptors_are_found(soft: int, level: Level) -> None:
    found = judge_descriptors("n", soft, 4096)
    assert found.level is level
    assert (level is Level.OK) == (found.mend is None)


@pytest.mark.parametrize(
    ("limit", "used", "available", "level"),
    [
        (None, None, 8 * GIB, Level.OK),
        (None, None, 100 * MIB, Level.WARN),
        (4 * GIB, GIB, 8 * GIB, Level.OK),
        (GIB, 700 * MIB, 8 * GIB, Level.WARN),
        (None, None, None, Level.OK),
    ],
)
def test_memory_is_judged_by_what_the_agent_takes(
    limit: int | None, used: int | None, available: int | None, level: Level
) -> None:
    assert judge_memory("n", {"limit": limit, "used": used, "available": available}, 512 * MIB).level is level


@pytest.mark.parametrize(("size", "level"), [(None, Level.WARN), (64 * MIB, Level.WARN), (GIB, Level.OK)])
def test_a_small_shared_memory_is_found(size: int | None, level: Level) -> None:
    assert [each.level for each in judge_shared_memory("n", size)] == [level]


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A machine's `proc` and `sys`."""
    files = {"proc/meminfo": "MemTotal: 1024 kB\nMemAvailable: 512 kB\n", "proc/self/cgroup": cgroup, **files}
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_the_tightest_cgroup_above_counts_and_caches_do_not(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/pod/memory.max": "2000\n",
        "sys/fs/cgroup/pod/memory.current": "1500\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 300\ninactive_file 1000\n",
        "sys/fs/cgroup/pod/one/memory.max": "max\n",
    }
    found = read_memory(machine(tmp_path, "0::/pod/one\n", files))
    assert found == {"total": 1 << 20, "available": 512 << 10, "limit": 2000, "used": 500}


def test_the_first_version_of_cgroups_is_read_too(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "3000\n",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "900\n",
        "sys/fs/cgroup/memory/box/memory.stat": "total_inactive_file 100\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    found = read_memory(machine(tmp_path, "4:cpu:/box\n7:memory:/box\n", files))
    assert (found["limit"], found["used"]) == (3000, 800)


def test_a_machine_without_cgroups_has_no_limit(tmp_path: Path) -> None:
    assert read_memory(tmp_path) == {"total": None, "available": None, "limit": None, "used": None}


def test_facts_are_of_built_in_types() -> None:
    found = read_facts(("no-such-package|pytest", "neither-this"), ("pytest", "no_such_module.part"))
    assert found["packages"]["no-such-package"] == pytest.__version__
    assert found["packages"]["neither-this"] is None
    assert found["missing"] == ["no_such_module.part"]


# Stores


def test_a_store_is_opened_written_and_left_clean(tmp_path: Path) -> None:
    found = examine_store({"store": str(tmp_path / "store")}, "n")
    assert [(check, level) for check, level, _, _ in found] == [
        ("store-rights", "ok"),
        ("store-space", "ok"),
        ("store-speed", "ok"),
    ] or found[2][1] == "warn"
    assert not list((tmp_path / "store").glob("doctor-*"))


def test_a_store_that_cannot_be_is_a_failure_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ((check, level, _, mend),) = examine_store({"store": str(tmp_path / "file" / "store")}, "n")
    assert (check, level) == ("store-rights", "fail")
    assert "store (HUBDIST_STORE)" in (mend or "")


@pytest.mark.parametrize(
    ("free", "kept", "level"),
    [
        (100 * GIB, None, "ok"),
        (500 * MIB, None, "warn"),
        (0, None, "fail"),
        (100 * GIB, 1 << 60, "warn"),
        (100 * GIB, 1 << 20, "ok"),
    ],
)
def test_room_is_judged(tmp_path: Path, free: int, kept: int | None, level: str) -> None:
    _, found, _, mend = judge_space(tmp_path, free, kept)
    assert found == level
    assert (level == "ok") == (mend is None)


def test_a_slow_disk_is_a_warning() -> None:
    assert judge_speed(Speed(500 * MIB, 900 * MIB))[1] == "ok"
    _, level, found, mend = judge_speed(Speed(3 * MIB, 900 * MIB))
    assert level == "warn"
    assert "3 MiB/s written" in found
    assert mend


# Ports


def test_each_of_few_nodes_tries_all_others() -> None:
    assert choose_pairs(["a", "b", "c"], random.Random(1)) == {"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"]}


def test_of_many_nodes_every_port_is_tried_a_few_times() -> None:
    names = [f"n{number:03}" for number in range(512)]
    pairs = choose_pairs(names, random.Random(1))
    assert sum(map(len, pairs.values())) <= 5 * 512
    assert {other for others in pairs.values() for other in others} == set(names)
    assert all(name not in others for name, others in pairs.items())


def test_a_port_that_some_cannot_reach_is_the_ports_fault() -> None:
    tried = {"a": {"b": "timed out", "c": None}, "c": {"b": "timed out", "a": None}, "b": {"a": None, "c": None}}
    findings = judge_ports(tried)
    assert [(each.node, each.level) for each in findings] == [("a", Level.OK), ("b", Level.FAIL), ("c", Level.OK)]
    assert "not reached from a, c (2 of 2 that tried): timed out" in findings[1].found
    assert "data_port: off" in (findings[1].mend or "")


def test_a_port_is_opened_and_reached_by_those_who_know_the_secret() -> None:
    port = open_port({}, "127.0.0.1", b"s" * 32)
    assert not isinstance(port, str)
    try:
        assert try_ports({"n": port.address}, b"s" * 32) == {"n": None}
        assert try_ports({"n": port.address}, b"t" * 32)["n"]
    finally:
        port.stop()
    assert "cannot be reached" in (try_ports({"n": port.address}, b"s" * 32)["n"] or "")


def test_no_port_is_opened_if_none_is_wanted() -> None:
    assert open_port({"data_port": "off"}, "127.0.0.1", b"s") == ""
    assert "no port can be opened" in str(open_port({}, "192.0.2.77", b"s"))


# Places


def test_what_only_the_driver_reads_is_not_asked_of_other_nodes(tmp_path: Path) -> None:
    handles = ["https://hub.example/m/1", "gs://b/dir", "model", "gs://b/a.zip", "mine://x", "nonsense://x"]
    places, wrong = places_of(handles, "gs://b/cache", tmp_path, {"mine"})
    assert {place.text: place.driver_only for place in places} == {
        "https://hub.example/m/1": True,
        "gs://b/dir": False,
        f"{tmp_path}/model": False,
        "gs://b/a.zip": True,
        "gs://b/cache": False,
    }
    assert [each.level for each in wrong] == [Level.FAIL]


@pytest.mark.parametrize(
    ("name", "level", "word"), [("empty", "ok", "nothing yet"), ("missing", "fail", "no directory")]
)
def test_an_empty_shared_cache_is_well_and_a_missing_mount_is_not(
    tmp_path: Path, name: str, level: str, word: str
) -> None:
    (tmp_path / "empty").mkdir()
    ((check, found, text, mend),) = examine_places({}, [("shared-cache", str(tmp_path / name))], 5)
    assert (check, found) == ("shared-cache", level)
    assert word in text
    assert (mend is None) == (level == "ok")


def test_files_archives_and_directories_are_read(tmp_path: Path, hub: LoopbackHub) -> None:
    (tmp_path / "model").mkdir()
    for path in ("model/saved_model.pb", "model.onnx", "model.zip"):
        (tmp_path / path).write_bytes(b"x")
    handles = [f"{tmp_path}/model", f"{tmp_path}/model.onnx", f"zip://inner::{tmp_path}/model.zip"]
    handles += [hub.add_model("team/m/1", {"saved_model.pb": b"x"}), hub.add_file("/a.onnx", b"x" * 100)]
    found = examine_places({}, [("origin", handle) for handle in handles], 5)
    assert [level for _, level, _, _ in found] == ["ok"] * 5, found


def test_a_refusal_elsewhere_only_costs_a_route() -> None:
    check, level, found, mend = judge_other_node(("origin", "fail", "gs://b/dir may not be read", "Give it"))
    assert (check, level) == ("origin", "warn")
    assert "cannot take the route direct" in found
    assert "Nothing, if" in (mend or "")
    assert judge_other_node(("origin", "ok", "can be read", None))[1] == "ok"


# The whole


class OneMachine:
    """Probes of nodes that are all this process, of which some fail."""

    def __init__(self, names: list[str], failing: dict[tuple[str, str], HubdistError]) -> None:
        from hubdist.health.probe import Probe

        self.targets = [Target(name, name, "127.0.0.1") for name in names]
        self.driver = self.targets[0]
        self._failing = failing
        self._probes = {name: Probe() for name in names}

    def ask(self, method: str, arguments: Any, timeout_s: float) -> dict[str, Any]:
        return {
            name: self._failing.get((name, method)) or getattr(self._probes[name], method)(*values)
            for name, values in arguments.items()
        }


def whole(tmp_path: Path, handles: list[str], **failing: str) -> list[Finding]:
    late = TransferTimeoutError("no answer within 10 s")
    probes = OneMachine(["a", "b", "c"], {(node, method): late for method, node in failing.items()})
    values = {name: {"store": str(tmp_path / name)} for name in "abc"}
    config = Config(store=str(tmp_path / "a"))
    return list(examine(probes, config, handles, tmp_path, values, patience=Patience(check_s=5)))


def failed(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.node) for each in findings if each.level is Level.FAIL]


def test_well_nodes_pass_every_check(tmp_path: Path, hub: LoopbackHub) -> None:
    findings = whole(tmp_path, [hub.add_model("team/m/1", {"saved_model.pb": b"x"})])
    assert failed(findings) == []
    assert {each.subject for each in findings} == {"versions", "limits", "clock", "store", "ports", "origin"}
    assert [each.node for each in findings if each.subject == "origin"] == ["a"]


def test_a_silent_node_is_a_line_and_not_asked_again(tmp_path: Path) -> None:
    findings = whole(tmp_path, [], facts="b")
    assert failed(findings) == [("versions", "b")]
    assert [each.check for each in findings if each.node == "b"] == ["versions"]


@pytest.mark.parametrize("method", ["clock", "store", "open_port", "try_ports"])
def test_a_check_that_hangs_is_a_line_of_its_node(tmp_path: Path, method: str) -> None:
    findings = whole(tmp_path, [], **{method: "b"})
    subject = "ports" if "port" in method else method
    assert failed(findings) == [(subject, "b")]
    assert {each.node for each in findings if each.subject == subject and each.level is not Level.FAIL} >= {"a", "c"}


def test_a_dead_hub_is_named_with_what_to_do(tmp_path: Path) -> None:
    findings = whole(tmp_path, ["http://127.0.0.1:9/team/model/1"])
    (found,) = [each for each in findings if each.subject == "origin"]
    assert (found.level, found.node) == (Level.FAIL, "a")
    assert "HTTPS_PROXY" in (found.mend or "")


def test_secrets_of_handles_are_in_no_finding(tmp_path: Path) -> None:
    findings = whole(tmp_path, ["http://user:hidden@127.0.0.1:9/m?token=hidden"])
    assert "hidden" not in repr(findings)


def test_sizes_for_people() -> None:
    assert [size_words(size) for size in (5, 3 * MIB, 1536 * MIB, 200 * GIB)] == [
        "5 bytes",
        "3 MiB",
        "1.5 GiB",
        "200 GiB",
    ]


def test_the_probe_is_unpickled_where_there_is_no_hubdist() -> None:
    for module in (machine_module, probe_module):
        cloudpickle.register_pickle_by_value(module)
    try:
        pickled = cloudpickle.dumps(probe_module.Probe)
    finally:
        for module in (machine_module, probe_module):
            cloudpickle.unregister_pickle_by_value(module)
    script = (
        "import sys, pickle\nsys.modules['hubdist'] = None\n"  # an import raises ImportError
        "probe = pickle.loads(sys.stdin.buffer.read())()\n"
        "print(probe.facts(('pytest',), ()), probe.clock() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=pickled, capture_output=True, timeout=60, check=True)
    assert b"'hubdist': None" in done.stdout
    assert done.stdout.strip().endswith(b"True")
