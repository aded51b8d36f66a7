"""Every file in configs/, read by the program that it is for."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import ByteSize, TypeAdapter

import hubdist
from hubdist import Config
from hubdist.config import reference
from tests.support import REPOSITORY

CONFIGS = REPOSITORY / "configs"
LAUNCHER_FILES = ("cluster-local.yaml", "cluster-gcp.yaml", "cluster-gcp-shared-cache.yaml", "cluster-gcp-tpu.yaml")
RAY_JOBS = ("kuberay-rayjob.yaml", "kuberay-rayjob-shared-cache.yaml")
RAY_SERVICES = ("kuberay-rayservice.yaml",)
RAY_CLUSTERS = ("kuberay-raycluster.yaml",)
KUBERAY = {
    **dict.fromkeys(RAY_JOBS, "RayJob"),
    **dict.fromkeys(RAY_SERVICES, "RayService"),
    **dict.fromkeys(RAY_CLUSTERS, "RayCluster"),
}
"""File -> what it is."""

CLUSTER_SPECS = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
"""Where an object has its cluster; a RayCluster is one itself."""

RUNTIME_ENVS = (
    "configs/runtime-env.yaml",
    "examples/job_submit/runtime_env.yaml",
    "examples/job_submit/runtime_env_gcs.yaml",
    *(f"configs/{name}" for name in (*RAY_JOBS, *RAY_SERVICES)),
)


def read(path: str | Path) -> Any:
    return yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8"))


def test_each_file_has_a_test() -> None:
    tested = {"hubdist.yaml", "hubdist-shared-cache.yaml", "runtime-env.yaml", *LAUNCHER_FILES, *KUBERAY}
    tested.add("grafana-hubdist.json")  # tests/unit/cluster/test_grafana.py
    assert {path.name for path in CONFIGS.iterdir()} == tested


class TestHubdistYaml:
    TEXT = (CONFIGS / "hubdist.yaml").read_text(encoding="utf-8")

    def test_is_what_the_reference_writes(self) -> None:
        assert reference.settings_yaml() == self.TEXT  # else: make configs

    def test_has_every_key_once(self) -> None:
        keys = re.findall(r"^(\w+):", self.TEXT, flags=re.MULTILINE)
        assert sorted(keys) == sorted(Config.model_fields.keys() - {"origins"})

    def test_says_something_about_each_key(self) -> None:
        lines = self.TEXT.splitlines()
        bare = [
            line for before, line in itertools.pairwise(lines) if re.match(r"\w", line) and not before.startswith("#")
        ]
        assert bare == []

    def test_holds_the_defaults(self) -> None:
        assert Config.from_yaml(self.TEXT) == Config()

    def test_changes_nothing_where_it_is_used(self) -> None:
        used = Config.load(environment={"HUBDIST_CONFIG": str(CONFIGS / "hubdist.yaml")})
        assert used == Config.load(environment={})

    def test_its_examples_of_models_are_accepted(self) -> None:
        (example,) = re.findall(r"^# models:\n(?:#   .*\n)+", self.TEXT, flags=re.MULTILINE)
        text = re.sub(r"^# ", "", example, flags=re.MULTILINE)
        config = Config.from_yaml(text.replace("<64 hexadecimal digits>", "0" * 64))
        assert [model.digest for model in config.models] == [None, "sha256:" + "0" * 64, None]
        assert (config.models[1].route, config.models[1].read_mode) == ("direct", "memory")
        assert config.models[2].handle.startswith("files://include=")


class TestSettingsPages:
    """What is said of the settings elsewhere comes from, or agrees with, their one description."""

    def test_the_page_is_what_the_reference_writes(self) -> None:
        page = REPOSITORY / "docs" / "reference" / "settings.md"
        assert page.read_text(encoding="utf-8") == reference.settings_markdown()  # else: make configs

    def test_every_key_is_described_in_one_section(self) -> None:
        keys = [key for section in reference.SECTIONS.values() for key in section]
        assert sorted(keys) == sorted(Config.model_fields)
        assert all(str(field.description).endswith(".") for field in Config.model_fields.values())

    def test_tables_of_settings_name_keys_that_exist(self) -> None:
        """A table whose first column is called `key`."""
        for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")):
            for table in re.findall(r"^\| key \|.*\n(?:\|.*\n)+", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
                for row in table.splitlines()[2:]:
                    named = set(re.findall(r"`(\w+)`", row.split("|")[1]))
                    assert named <= Config.model_fields.keys(), f"{page}: {row}"


def test_the_settings_with_a_shared_cache_are_accepted() -> None:
    config = Config.load(environment={"HUBDIST_CONFIG": str(CONFIGS / "hubdist-shared-cache.yaml")})
    assert config.shared_cache == "gs://my-bucket/hubdist"


def runtime_env_in(path: str) -> dict[str, Any]:
    content = read(path)
    if content.get("kind") == "RayService":
        (application,) = yaml.safe_load(content["spec"]["serveConfigV2"])["applications"]
        content = application["runtime_env"]
    elif "spec" in content:
        content = yaml.safe_load(content["spec"]["runtimeEnvYAML"])
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("path", RUNTIME_ENVS)
class TestRuntimeEnv:
    def test_ray_accepts_it_and_knows_every_key(self, path: str, caplog: pytest.LogCaptureFixture) -> None:
        from ray.runtime_env import RuntimeEnv, RuntimeEnvConfig

        content = runtime_env_in(path)
        with caplog.at_level(logging.WARNING):
            accepted = RuntimeEnv(**content)
        assert caplog.records == []
        assert content.keys() <= RuntimeEnv.known_fields
        assert content["config"].keys() <= RuntimeEnvConfig.known_fields
        assert accepted.pip_config()["packages"] == content["pip"]["packages"]
        assert accepted.env_vars() == content["env_vars"]
        assert RuntimeEnv.deserialize(accepted.serialize()).env_vars() == content["env_vars"]

    def test_hubdist_accepts_the_settings_in_it(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from ray._private.utils import update_envs  # how workers take env_vars over

        variables = runtime_env_in(path)["env_vars"]
        for name in variables:
            monkeypatch.setenv(name, "to be put back")
        update_envs(variables)
        expected = Config.from_yaml(variables["HUBDIST_CONFIG"])
        assert Config.load() == expected

    def test_what_it_installs_is_this_version(self, path: str) -> None:
        (requirement,) = map(Requirement, runtime_env_in(path)["pip"]["packages"])
        assert str(requirement.specifier) == f"=={hubdist.__version__}"
        assert requirement.name == "hubdist"
        assert requirement.extras <= extras_of_hubdist()


def project_table() -> dict[str, Any]:
    return dict(tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def extras_of_hubdist() -> set[str]:
    return set(project_table()["optional-dependencies"])


@pytest.mark.parametrize("name", LAUNCHER_FILES)
class TestLauncherFile:
    def prepared(self, name: str) -> dict[str, Any]:
        """As `ray up` does before it asks the provider; source: ray 2.60.0, `commands._bootstrap_config`."""
        from ray.autoscaler._private.util import prepare_config

        return dict(prepare_config(read(CONFIGS / name)))

    def test_ray_up_accepts_it(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        from ray.autoscaler._private.util import check_legacy_fields, validate_config

        with caplog.at_level(logging.WARNING):
            config = self.prepared(name)
            validate_config(config)
            check_legacy_fields(config)
        assert caplog.records == []

    def test_ray_up_finds_the_files_to_copy(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from ray.autoscaler._private.util import hash_runtime_conf

        monkeypatch.chdir(REPOSITORY)
        config = self.prepared(name)
        hash_runtime_conf(config["file_mounts"], config["cluster_synced_files"], config)
        settings = "hubdist-shared-cache.yaml" if "shared-cache" in name else "hubdist.yaml"
        assert config["file_mounts"] == {"~/hubdist.yaml": f"configs/{settings}"}

    @pytest.mark.parametrize("kind", ["head", "worker"])
    def test_every_node_installs_hubdist_and_starts_ray_with_its_settings(self, name: str, kind: str) -> None:
        config = self.prepared(name)
        setup = " ".join(config[f"{kind}_setup_commands"])
        requirements = [Requirement(text) for text in re.findall(r"'([^' ]+==[^' ]+)'", setup)]
        found = {requirement.name: requirement for requirement in requirements}
        assert found["hubdist"].specifier.contains(hubdist.__version__)
        assert found["hubdist"].extras <= extras_of_hubdist()
        assert found["ray"].extras == {"default"}
        stop, start = config[f"{kind}_start_ray_commands"]
        assert stop == "ray stop"
        assert start.startswith("export HUBDIST_CONFIG=$HOME/hubdist.yaml; ")
        assert ("ray start --head " in start) == (kind == "head")

    def test_bash_can_read_every_command(self, name: str) -> None:
        config = self.prepared(name)
        for key in config:
            for command in config[key] if key.endswith("_commands") else ():
                subprocess.run(["bash", "-n", "-c", command], check=True, timeout=30)

    def test_setting_a_node_up_twice_changes_its_profile_once(self, name: str, tmp_path: Path) -> None:
        (profile,) = [command for command in read(CONFIGS / name)["setup_commands"] if ".bashrc" in command]
        show = "source ~/.bashrc; echo $PATH; echo $HUBDIST_CONFIG"
        for command in (profile, profile, show):
            ran = subprocess.run(
                ["bash", "-c", command],
                env={"HOME": str(tmp_path), "PATH": os.defpath},
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            )
        assert (tmp_path / ".bashrc").read_text(encoding="utf-8").count("\n") == 1
        path, settings = ran.stdout.split()
        assert path == f"{tmp_path}/ray-env/bin{os.pathsep}{os.defpath}"
        assert settings == f"{tmp_path}/hubdist.yaml"

    def test_numbers_of_workers_fit(self, name: str) -> None:
        config = self.prepared(name)
        workers = {kind: of for kind, of in config["available_node_types"].items() if of["max_workers"]}
        assert workers
        assert all(1 <= of["min_workers"] <= of["max_workers"] <= config["max_workers"] for of in workers.values())


def test_all_files_name_the_same_ray() -> None:
    texts = "\n".join(path.read_text(encoding="utf-8") for path in CONFIGS.iterdir())
    found = set(re.findall(r"ray\[default\]==([\d.]+)|rayproject/ray:([\d.]+)|rayVersion: \"([\d.]+)\"", texts))
    assert len({next(filter(None, groups)) for groups in found}) == 1


def test_workers_that_share_a_bucket_have_the_account_that_ray_makes_for_the_head() -> None:
    import ray

    worker = read(CONFIGS / "cluster-gcp-shared-cache.yaml")["available_node_types"]["worker"]["node_config"]
    (account,) = worker["serviceAccounts"]
    # Read, not imported: the module needs Google's client.
    source = (Path(ray.__file__).parent / "autoscaler" / "_private" / "gcp" / "config.py").read_text(encoding="utf-8")
    names = dict(re.findall(r'^(RAY|VERSION) = "([\w-]+)"', source, flags=re.MULTILINE))
    assert account["email"].startswith(f"{names['RAY']}-sa-{names['VERSION']}@")
    assert '"roles/storage.objectAdmin"' in source


def test_tpu_workers_are_a_kind_that_ray_knows_with_as_many_chips_as_they_say() -> None:
    from ray._private.accelerators import TPUAcceleratorManager, tpu

    config = read(CONFIGS / "cluster-gcp-tpu.yaml")
    types = config["available_node_types"]
    kind = types["tpu"]["node_config"]["acceleratorType"]
    chips = int(kind.partition("-")[2]) // tpu.get_tpu_cores_per_chip(kind)
    assert TPUAcceleratorManager.is_valid_tpu_accelerator_type(kind)
    assert chips <= tpu.get_num_tpu_visible_chips_per_host(kind)  # one host
    assert types["tpu"]["resources"]["TPU"] == chips
    assert "machineType" in types[config["head_node_type"]]["node_config"]  # a TPU cannot be the head
    assert "tensorflow-tpu" in " ".join(config["worker_setup_commands"])


@functools.cache
def kuberay_validator(kind: str) -> jsonschema.Draft202012Validator:
    """What `kubectl apply --validate=strict` refuses; made by tests/support/make_kuberay_schemas.py."""
    schema = json.loads((REPOSITORY / "tests/contract/schemas/kuberay.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator({**schema, "$ref": f"#/$defs/{kind}"})


def cluster_in(content: dict[str, Any]) -> dict[str, Any]:
    """The spec of the cluster in an object of KubeRay's."""
    inner = CLUSTER_SPECS.get(content["kind"])
    return dict(content["spec"][inner] if inner else content["spec"])


def pods_in(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of the head and of each group of workers."""
    spec = cluster_in(content)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def mounts_of(pod: dict[str, Any]) -> dict[str, str]:
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert sorted(mounts) == sorted(volume["name"] for volume in pod["volumes"])
    return mounts


MISTAKES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("object", {"apiVersion": "ray.io/v1alpha1"}),
    ("object", {"kind": "RayCronJob"}),
    ("object", {"spec": {"runtimeEnv": ""}}),
    ("object", {"metadata": {"name": "x" * 60}}),
    ("cluster", {"rayversion": "2"}),
    ("cluster", {"headGroupSpec": {"rayStartParams": {"num-cpus": 0}}}),
    ("cluster", {"headGroupSpec": {"template": {"containers": []}}}),
    ("cluster", {"headGroupSpec": {"template": {"spec": {"containers": [{"image": "without a name"}]}}}}),
    ("cluster", {"headGroupSpec": {"template": {"spec": {"volumes": [{"name": "m", "emptydir": {}}]}}}}),
    ("cluster", {"headGroupSpec": {"template": {"spec": {"volumes": [{"name": "m", "emptyDir": {"sizeLimit": []}}]}}}}),
    ("cluster", {"workerGroupSpecs": [{"groupName": "workers", "replicas": "two", "template": {}}]}),
)
"""Where a mistake is made, and what it is."""


@pytest.mark.parametrize("name", KUBERAY)
class TestKubeRay:
    def content(self, name: str) -> dict[str, Any]:
        return dict(read(CONFIGS / name))

    def test_its_fields_are_those_of_its_kind(self, name: str) -> None:
        assert self.content(name)["kind"] == KUBERAY[name]
        assert [error.message for error in kuberay_validator(KUBERAY[name]).iter_errors(self.content(name))] == []

    @pytest.mark.parametrize(("where", "change"), MISTAKES)
    def test_the_schema_refuses_mistakes(self, name: str, where: str, change: dict[str, Any]) -> None:
        inner = CLUSTER_SPECS.get(KUBERAY[name])
        whole = change if where == "object" else {"spec": {inner: change} if inner else change}
        assert not kuberay_validator(KUBERAY[name]).is_valid(merged(self.content(name), whole))

    def test_groups_agree_with_each_other(self, name: str) -> None:
        spec = cluster_in(self.content(name))
        head, *_ = pods_in(self.content(name))
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            (worker,) = group["template"]["spec"]["containers"]
            assert worker["image"] == head["containers"][0]["image"]
            assert spec["rayVersion"] in worker["image"]

    def test_every_pod_has_the_store_on_a_volume_that_is_large_enough(self, name: str) -> None:
        for pod in pods_in(self.content(name)):
            variables = {each["name"]: each["value"] for each in pod["containers"][0].get("env", ())}
            variables = variables or runtime_env_in(f"configs/{name}")["env_vars"]
            settings = Config.load(environment={key: text for key, text in variables.items() if "HUBDIST" in key})
            assert Path(settings.store).parent == Path(mounts_of(pod)["models"])
            (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "models"]
            limit = TypeAdapter(ByteSize).validate_python(f"{volume['emptyDir']['sizeLimit']}B")
            assert settings.max_store_bytes is not None
            assert settings.max_store_bytes < limit


@pytest.mark.parametrize("name", RAY_JOBS)
def test_a_rayjob_runs_its_script_and_ends(name: str) -> None:
    """What the KubeRay operator checks beyond the schema, and what would start but not work."""
    content = read(CONFIGS / name)
    assert content["spec"]["shutdownAfterJobFinishes"]  # ttlSecondsAfterFinished is refused without it
    _, script, _ = content["spec"]["entrypoint"].split()
    head, *_ = pods_in(content)
    assert str(Path(script).parent) == mounts_of(head)["job"]
    assert (REPOSITORY / "examples" / "job_submit" / Path(script).name).is_file()


@pytest.mark.parametrize("name", RAY_SERVICES)
def test_a_rayservice_finds_its_application_in_every_pod(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    content = read(CONFIGS / name)
    (application,) = ServeDeploySchema(**yaml.safe_load(content["spec"]["serveConfigV2"])).applications
    module, _, function = application.import_path.partition(":")
    script = REPOSITORY / "examples" / "rayservice" / f"{module}.py"
    assert re.search(rf"^def {function}\(", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for pod in pods_in(content):
        assert mounts_of(pod)["serve"] == application.runtime_env["env_vars"]["PYTHONPATH"]
        assert any(port["containerPort"] == 8000 for port in pod["containers"][0]["ports"])


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    for key, value in change.items():
        base[key] = merged(base[key], value) if isinstance(value, dict) and key in base else value
    return base


def test_python_of_the_nodes_is_one_that_hubdist_takes() -> None:
    texts = "\n".join(path.read_text(encoding="utf-8") for path in CONFIGS.iterdir())
    named = set(re.findall(r"--python (3\.\d+)|ray:[\d.]+-py(3\d+)", texts))
    versions = {plain or f"{compact[0]}.{compact[1:]}" for plain, compact in named}
    assert len(versions) == 1  # Ray wants the same on all nodes
    assert versions.pop() in SpecifierSet(project_table()["requires-python"])
