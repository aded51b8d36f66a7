"""What the processes of agents and coordinators load until their first answer: a node waits for a model meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

from hubdist.cluster.job import Job
from hubdist.config.schema import Config
from hubdist.model.manifest import Manifest
from hubdist.store.store import Store

HEAVY = {
    "aiohttp",
    "aiobotocore",
    "boto3",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "kagglehub",
    "keras",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "requests",
    "tensorflow",
    "tensorflow_hub",
    "tf_keras",
}
"""Packages that take long to load. Ray's own processes load some of them by themselves, and then they cost nothing."""

AGENT = """
import json, pickle, sys
from pathlib import Path

from hubdist.cluster.agent.agent import NodeAgent
from hubdist.cluster.agent.messages import DeliveryTerms

config, manifest = pickle.loads(Path(sys.argv[1]).read_bytes())
agent = NodeAgent(config, "node", host="127.0.0.1")
agent.answer()
assert agent.find_nonce([agent.show_nonce()]) is not None
assert not agent.holds(manifest.digest)
assert not agent.begin("delivery", manifest, DeliveryTerms(b"s" * 32), None).has_model
agent.forget("delivery")
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

COORDINATOR = """
import json, pickle, sys
from pathlib import Path

from hubdist.cluster.coordinator.coordinator import Coordinator
from hubdist.cluster.coordinator.parts import CoordinatorParts

job = pickle.loads(Path(sys.argv[1]).read_bytes())
job.whole_config("node")
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(program: str, given: object, folder: Path) -> set[str]:
    """The packages that a fresh process has loaded when the program has ended."""
    (folder / "given").write_bytes(cloudpickle.dumps(given))
    command = [sys.executable, "-c", program, str(folder / "given")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(store=str(tmp_path / "stores" / "{node_id}"), max_store_bytes="1GiB", max_in_flight_bytes="8MiB")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    store = Store(tmp_path / "other")
    with store.stage() as stage:
        with stage.open_file("saved_model.pb") as file:
            file.write(b"graph")
        with store.publish(stage) as snapshot:
            return snapshot.manifest


def test_an_agent_loads_nothing_heavy(config: Config, manifest: Manifest, tmp_path: Path) -> None:
    assert not loaded(AGENT, (config.node_settings, manifest), tmp_path) & HEAVY


def test_a_coordinator_loads_nothing_heavy_but_what_its_settings_are_made_of(config: Config, tmp_path: Path) -> None:
    needs = {"pydantic", "requests"}  # requests is in each process of Ray already
    assert not loaded(COORDINATOR, Job.of(config, None, "scope"), tmp_path) & (HEAVY - needs)


def test_a_heavy_package_would_be_noticed(config: Config, tmp_path: Path) -> None:
    assert "pydantic" in loaded("import json, sys, pydantic\nprint(json.dumps(['pydantic']))", config, tmp_path) & HEAVY


def test_an_agent_knows_of_the_settings_what_the_whole_config_knows(config: Config) -> None:
    agents = pickle.loads(pickle.dumps(config.node_settings))
    for name in agents.__dataclass_fields__:
        assert getattr(agents, name) == getattr(config, name)
    assert agents.store_root("n") == config.store_root("n")
    assert Config(data_ports="20000-20010").node_settings.port_range == range(20000, 20011)
    assert Config().node_settings.port_range is None
