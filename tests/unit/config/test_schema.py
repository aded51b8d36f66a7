"""Configuration: layers, and errors that say where, what and what is allowed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hubdist.config.handover import fingerprint, replace_in_process, without_secrets
from hubdist.config.model_settings import ModelSettings
from hubdist.config.schema import Config
from hubdist.errors import ConfigError, HubdistError
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.testing.memory import MemorySource

SECRET = "hunter2"


def load(environment: dict[str, str] | None = None, **overrides: object) -> Config:
    return Config.load(overrides, environment or {})


def message(environment: dict[str, str] | None = None, **overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environment, **overrides)
    return str(caught.value)


# Layers


def test_without_anything_the_defaults_hold() -> None:
    assert load() == Config()


def test_later_layers_win() -> None:
    environment: dict[str, str] = {}
    assert load(environment).origin_retries == 5
    environment["HUBDIST_CONFIG"] = "origin_retries: 1\nmax_loaded_models: 1\nfrozen: true"
    assert load(environment).origin_retries == 1
    environment["HUBDIST_ORIGIN_RETRIES"] = "2"
    assert load(environment).origin_retries == 2
    config = load(environment, origin_retries=3)
    assert (config.origin_retries, config.max_loaded_models, config.frozen) == (3, 1, True)


def test_tfhubs_cache_directory_is_a_layer_below_hubdists_own_variable() -> None:
    environment = {"TFHUB_CACHE_DIR": "/cache"}
    assert load(environment).tfhub_cache_dir == "/cache"
    environment["HUBDIST_TFHUB_CACHE_DIR"] = "/other"
    assert load(environment).tfhub_cache_dir == "/other"
    assert load(environment, tfhub_cache_dir=None).tfhub_cache_dir is None


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBDIST_ORIGIN_RETRIES", "9")
    assert Config.load().origin_retries == 9


def test_the_yaml_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hubdist.yaml"
    file.write_text("origin_retries: 7\n")
    assert load({"HUBDIST_CONFIG": str(file)}).origin_retries == 7


@pytest.mark.parametrize(
    "text",
    [
        "origin_retries: 7",
        "origin_retries: 7\n",
        "# mine\norigin_retries: 7",
        "{origin_retries: 7}",
        '{"origin_retries": 7}',
        "---\norigin_retries: 7",
    ],
)
def test_the_yaml_may_stand_in_the_variable(text: str) -> None:
    assert load({"HUBDIST_CONFIG": text}).origin_retries == 7


@pytest.mark.parametrize("text", ["", "  ", "# nothing\n", "{}", "---\n"])
def test_an_empty_yaml_changes_nothing(text: str) -> None:
    assert load({"HUBDIST_CONFIG": text}) == Config()


def test_an_empty_variable_changes_nothing() -> None:
    assert load({"HUBDIST_ORIGIN_RETRIES": "", "TFHUB_CACHE_DIR": ""}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("HUBDIST_MAX_STORE_BYTES", "20GiB", "max_store_bytes", 20 << 30),
        ("HUBDIST_MAX_STORE_BYTES", "5 MB", "max_store_bytes", 5_000_000),
        ("HUBDIST_MAX_STORE_BYTES", "123", "max_store_bytes", 123),
        ("HUBDIST_MAX_STORE_BYTES", "null", "max_store_bytes", None),
        ("HUBDIST_MAX_IN_FLIGHT_BYTES", "8MiB", "max_in_flight_bytes", 8 << 20),
        ("HUBDIST_OFFLINE", "true", "offline", True),
        ("HUBDIST_FROZEN", "0", "frozen", False),
        ("HUBDIST_TIMEOUT_S", "1.5", "timeout_s", 1.5),
        ("HUBDIST_LOCK_FILE", "hubdist.lock", "lock_file", "hubdist.lock"),
        ("HUBDIST_STORE", "/s/{node_id}", "store", "/s/{node_id}"),
    ],
)
def test_variables_are_read_by_the_type_of_their_key(name: str, text: str, key: str, value: object) -> None:
    assert getattr(load({name: text}), key) == value


def test_models_in_a_variable_are_yaml() -> None:
    config = load({"HUBDIST_MODELS": "[https://h/a, {handle: gs://b/c, digest: null}]"})
    assert [model.handle for model in config.models] == ["https://h/a", "gs://b/c"]


def test_imports_in_a_variable_are_yaml() -> None:
    assert load({"HUBDIST_IMPORTS": "[json, os.path]"}).imports == ("json", "os.path")


def test_models_may_be_handles_or_handles_with_digests() -> None:
    digest = str(Digest("0" * 64))
    config = load(models=["/m", {"handle": "https://h/a", "digest": digest}])
    assert [(model.handle, model.digest) for model in config.models] == [("/m", None), ("https://h/a", digest)]


# In a task or actor

OF_THE_JOB = [
    ("shared_cache", "/mnt/cache"),
    ("shared_cache_read_only", True),
    ("swarm_reads", True),
    ("lock_file", "hubdist.lock"),
    ("tfhub_cache_dir", "/tmp/tfhub"),
    ("chunk_timeout_s", 3),
    ("probe_timeout_s", 3),
    ("agent_idle_s", 3),
    ("max_store_bytes", "1GiB"),
    ("origins", {"mine": MemorySource}),
]


def job_with(key: str) -> Config:
    """Settings in which a key has a meaning."""
    return Config(shared_cache="/mnt/cache") if key == "shared_cache_read_only" else Config()


@pytest.mark.parametrize(("key", "value"), OF_THE_JOB)
def test_a_task_cannot_change_what_the_coordinator_and_the_agents_do(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: no effect in a task or actor.*hubdist.init in the driver"):
        replace_in_process(job_with(key), {key: value}, ())


@pytest.mark.parametrize(("key", "value"), OF_THE_JOB)
def test_a_task_may_say_what_the_job_says(key: str, value: Any) -> None:
    whole = job_with(key).replace({key: value})
    schemes = set(value) if key == "origins" else ()
    changed = replace_in_process(without_secrets(whole), {key: value, "read_mode": "memory"}, schemes)
    assert changed == without_secrets(whole).replace({"read_mode": "memory"})


def test_a_task_may_have_a_store_of_its_own_and_limit_it() -> None:
    changed = replace_in_process(Config(store="/job"), {"store": "/mine", "max_store_bytes": 1000}, ())
    assert (changed.store, changed.max_store_bytes) == ("/mine", 1000)


@pytest.mark.parametrize(
    "settings",
    [
        {"frozen": True},
        {"offline": True},
        {"route": "driver"},
        {"timeout_s": 5},
        {"models": ["/m"]},
        {"imports": ("re",)},
    ],
)
def test_what_has_an_effect_in_a_task_is_taken(settings: dict[str, Any]) -> None:
    assert replace_in_process(Config(), settings, ()).explicit_values() == Config(**settings).explicit_values()


def test_keys_of_models_are_those_of_the_job() -> None:
    """A scheme that the job's own origins take is another place than the built-in one."""
    (key,) = Config(models=["gcs://team/model"]).model_settings({"gcs"})
    assert key == parse_handle("gcs://team/model", custom_schemes={"gcs"}).key
    assert key != parse_handle("gcs://team/model").key


# The store


def test_the_store_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert load().store_root("n") == Path("/xdg/hubdist")
    assert load(store="/mine").store_root("n") == Path("/mine")


def test_each_node_has_its_own_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/alice/.cache")
    driver = pickle.dumps(without_secrets(load()))
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/ray")
    assert pickle.loads(driver).store_root("n") == Path("/scratch/ray/hubdist")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ray")
    assert pickle.loads(driver).store_root("n") == Path("/home/ray/.cache/hubdist")


@pytest.mark.parametrize("value", ["", "relative/dir"])
def test_an_xdg_directory_that_is_not_absolute_is_ignored(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: XDG Base Directory Specification: relative paths are invalid and ignored."""
    monkeypatch.setenv("HOME", "/home/ray")
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert load().store_root("n") == Path("/home/ray/.cache/hubdist")


def test_braces_in_xdg_are_no_placeholders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x{y}")
    assert load().store_root("n") == Path("/x{y}/hubdist")


def test_each_node_may_have_a_store() -> None:
    assert load(store="/s/{node_id}/h").store_root("abc") == Path("/s/abc/h")


def test_a_store_in_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/homes/me")
    assert load(store="~/s").store_root("n") == Path("/homes/me/s")


@pytest.mark.parametrize(
    "store",
    [
        "/s/{host}",
        "/s/{}",
        "/s/{0}",
        "/s/{node_id",
        "/s/}",
        "/s/{node_id.real}",
        "/s/{node_id[0]}",
        "/s/{node_id[a]}",
        "/s/{node_id!r}",
        "/s/{node_id:>9}",
        "/s/{node_id.__class__}",
    ],
)
def test_other_placeholders_are_refused(store: str) -> None:
    assert "the only placeholder is {node_id}" in message(store=store)


@pytest.mark.parametrize("store", ["relative", "./s", "", "{node_id}/s", "gs://bucket/s"])
def test_a_store_that_is_not_absolute_is_refused(store: str) -> None:
    assert "must be an absolute path" in message(store=store)


# Errors name place, key and what is allowed


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HUBDIST_CONFIG": "origin_retris: 1"}, "the YAML in HUBDIST_CONFIG"),
        ({"HUBDIST_ORIGIN_RETRIS": "1"}, "HUBDIST_ORIGIN_RETRIS"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_known_ones(environment: dict[str, str], place: str) -> None:
    text = message(environment)
    assert f"unknown key 'origin_retris' in {place}" in text
    assert "origin_retries" in text


@pytest.mark.parametrize(
    ("old", "key"),
    [("max_bytes", "max_store_bytes"), ("in_flight_bytes", "max_in_flight_bytes"), ("retries", "origin_retries")],
)
def test_an_unknown_key_names_the_one_that_may_be_meant(old: str, key: str) -> None:
    assert f"Did you mean '{key}'?" in message(**{old: 1})


def test_an_unknown_argument_is_named() -> None:
    assert "unknown key 'stor' in an argument of init" in message(stor="/s")


def test_an_unknown_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("origin_retris: 1")
    assert f"unknown key 'origin_retris' in {file}" in message({"HUBDIST_CONFIG": str(file)})


def test_an_unknown_key_of_a_model_names_the_known_ones() -> None:
    text = message(models=[{"handle": "/m", "diggest": "x"}])
    assert "models.0.diggest" in text
    assert "Known keys: handle, digest, route, read_mode, include, exclude." in text


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("route", "pigeon", "'driver'"),
        ("read_mode", "never", "'store'"),
        ("origin_retries", -1, "greater than or equal to 0"),
        ("origin_retries", "many", "valid integer"),
        ("max_loaded_models", -1, "greater than or equal to 0"),
        ("max_store_bytes", 0, "greater than 0"),
        ("max_store_bytes", "20 parsecs", "byte"),
        ("max_in_flight_bytes", "1MiB", "greater than or equal to"),
        ("max_in_flight_bytes", "1GiB", "less than or equal to"),
        ("timeout_s", 0, "greater than 0"),
        ("timeout_s", float("inf"), "less than or equal to"),
        ("timeout_s", float("nan"), "than"),
        ("chunk_timeout_s", "soon", "valid number"),
        ("offline", "perhaps", "boolean"),
        ("store", 5, "valid string"),
        ("models", 5, "tuple"),
        ("models", [5], "models.0"),
        ("models", ["https://h:port/m"], "no valid port"),
        ("models", ["simplecache::gs://b/m"], "cannot be put in front"),
        ("models", [{"digest": "x"}], "models.0.handle"),
        ("models", [{"handle": "/m", "digest": "md5:1"}], "is not a digest"),
        ("origins", 5, "dictionary"),
        ("origins", {"mine": 5}, "callable"),
        ("origins", {"My_Own": MemorySource}, "scheme"),
        ("shared_cache", "http://host/cache", "directory on object storage"),
        ("shared_cache", "gs://", "names no bucket"),
        ("shared_cache", "cache", "is relative"),
        ("route", "tf-host", "pass device="),
        ("models", [{"handle": "/m", "route": "tf-host"}], "pass device="),
        ("models", [{"handle": "/m", "read_mode": "never"}], "'in_place'"),
        ("tfhub_cache_dir", "gs://b/c", "set shared_cache"),
    ],
)
def test_a_bad_value_names_key_place_and_what_is_allowed(key: str, value: object, allowed: str) -> None:
    text = message(**{key: value})
    assert key in text
    assert "in an argument of init" in text
    assert allowed in text


def test_a_bad_value_names_the_layer_that_it_came_from() -> None:
    assert "'origin_retries' in HUBDIST_ORIGIN_RETRIES" in message(
        {"HUBDIST_ORIGIN_RETRIES": "many", "HUBDIST_CONFIG": "origin_retries: 1"}
    )
    assert "'origin_retries' in the YAML" in message({"HUBDIST_CONFIG": "origin_retries: many"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("origin_retries: [", "is not YAML"),
        ("origin_retries: 1\n\tx: 2", "is not YAML"),
        ("- origin_retries: 1", "not a mapping"),
        ("1: 2", "not a mapping"),
        ("origins: {a: b}", "functions cannot come from YAML"),
        ("{origin_retries: " + "[" * 5000 + "}", "is not YAML"),
    ],
)
def test_a_yaml_that_is_no_configuration_is_refused(text: str, says: str) -> None:
    error = message({"HUBDIST_CONFIG": text})
    assert "the YAML in HUBDIST_CONFIG" in error
    assert says in error


@pytest.mark.parametrize("name", ["missing.yaml", "folder", "binary.yaml"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert f"HUBDIST_CONFIG names '{tmp_path / name}'" in message({"HUBDIST_CONFIG": str(tmp_path / name)})


def test_the_load_formats_of_tfhub_are_understood() -> None:
    for value in ("AUTO", "COMPRESSED", "compressed"):
        assert load({"TFHUB_MODEL_LOAD_FORMAT": value}) == Config()
    for value in ("UNCOMPRESSED", "uncompressed"):
        assert load({"TFHUB_MODEL_LOAD_FORMAT": value}) == Config(route="direct")
    assert "allowed are AUTO, COMPRESSED" in message({"TFHUB_MODEL_LOAD_FORMAT": "ZIP"})
    assert load({"TFHUB_MODEL_LOAD_FORMAT": "UNCOMPRESSED", "HUBDIST_ROUTE": "driver"}) == Config(route="driver")


def test_a_remote_cache_directory_of_tfhub_becomes_the_shared_cache() -> None:
    assert load({"TFHUB_CACHE_DIR": "gs://b/cache/"}) == Config(shared_cache="gs://b/cache")
    assert load({"TFHUB_CACHE_DIR": "/hub"}) == Config(tfhub_cache_dir="/hub")
    both = {"TFHUB_CACHE_DIR": "gs://b/cache", "HUBDIST_SHARED_CACHE": "gs://b/other"}
    assert load(both) == Config(shared_cache="gs://b/other")


_FLAGS = """
import sys
from absl import flags
flags.DEFINE_string("tfhub_cache_dir", None, "as tensorflow_hub defines it")
flags.DEFINE_enum("tfhub_model_load_format", "AUTO", ["AUTO", "COMPRESSED", "UNCOMPRESSED"], "too")
from hubdist import Config
if sys.argv.pop(1) == "parsed":
    flags.FLAGS(sys.argv)
config = Config.load(environment=dict(word.split("=", 1) for word in sys.argv[1:] if not word.startswith("--")))
print(config.shared_cache, config.tfhub_cache_dir, config.route)
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["parsed"], "None None auto"),
        (["parsed", "--tfhub_cache_dir=gs://b/c"], "gs://b/c None auto"),
        (["parsed", "--tfhub_cache_dir=/hub", "--tfhub_model_load_format=UNCOMPRESSED"], "None /hub direct"),
        (["parsed", "--tfhub_cache_dir=gs://b/flag", "TFHUB_CACHE_DIR=gs://b/env"], "gs://b/env None auto"),
        (["not yet parsed", "--tfhub_cache_dir=gs://b/c"], "None None auto"),
    ],
)
def test_flags_of_tfhub_count_where_a_program_has_parsed_them(arguments: list[str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FLAGS, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == expected


def test_single_models_have_settings_of_their_own() -> None:
    config = Config(models=["gs://b/plain", {"handle": "gs://b/m/", "route": "direct", "read_mode": "memory"}])
    settings = config.model_settings()
    assert settings[parse_handle("gs://b/m").key] == ModelSettings(None, "direct", "memory")
    assert settings[parse_handle("gs://b/plain").key] == ModelSettings()


@pytest.mark.parametrize(
    ("environment", "overrides"),
    [
        ({"HUBDIST_CONFIG": f"models: ['https://me:{SECRET}@h/m"}, {}),
        ({"HUBDIST_CONFIG": f"models: [https://h/m?token={SECRET}"}, {}),
        ({"HUBDIST_CONFIG": f"models: https://me:{SECRET}@h/m"}, {}),
        ({"HUBDIST_MODELS": f"[gs://me:{SECRET}@b/../m]"}, {}),
        ({"HUBDIST_MODELS": f"['https://h/m?token={SECRET}'"}, {}),
        ({}, {"models": [f"kaggle://me:{SECRET}@h/m"]}),
        ({}, {"models": [f"https://me:{SECRET}@h:port/m", "x://y"]}),
        ({}, {"models": [{"handle": f"https://me:{SECRET}@h/m", "digest": "x"}]}),
        ({}, {"models": [{"handle": f"https://h/m?token={SECRET}", "digest": 5}]}),
        ({}, {"models": [{"handle": f"https://h/m?token={SECRET}", "extra": 5}]}),
        ({}, {"tfhub_cache_dir": f"s3://key:{SECRET}@bucket/c"}),
    ],
)
def test_no_secret_is_in_an_error(environment: dict[str, str], overrides: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(overrides, environment)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None


# The value


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().origin_retries = 1  # type: ignore[misc]


def test_replace_gives_another_config() -> None:
    config = load(origin_retries=1, offline=True)
    other = config.replace({"origin_retries": 2})
    assert (config.origin_retries, other.origin_retries, other.offline) == (1, 2, True)


def test_replace_refuses_what_load_refuses() -> None:
    with pytest.raises(ConfigError, match="unknown key 'origin_retris' in an argument of init"):
        Config().replace({"origin_retris": 2})


def test_only_the_keys_that_were_given_are_set() -> None:
    assert load({"HUBDIST_ORIGIN_RETRIES": "1"}, offline=True).explicit_values() == {
        "origin_retries": 1,
        "offline": True,
    }


def test_from_yaml_reads_a_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBDIST_ORIGIN_RETRIES", "9")
    assert Config.from_yaml("max_store_bytes: 1GiB").origin_retries == 5
    with pytest.raises(ConfigError, match=r"in job\.yaml"):
        Config.from_yaml("origin_retris: 1", "job.yaml")


def test_functions_for_origins_are_kept_and_do_not_leave_for_the_nodes() -> None:
    config = load(origins={"mine": MemorySource})
    assert config.origins["mine"] is MemorySource
    assert without_secrets(config).origins == {}
    assert "MemorySource" not in repr(config)


def test_what_nodes_get_can_be_pickled_and_holds_no_handles() -> None:
    config = load(models=[f"https://me:{SECRET}@h/m"], origin_retries=1)
    data = pickle.dumps(without_secrets(config))
    assert SECRET.encode() not in data
    assert pickle.loads(data).origin_retries == 1


def test_equal_settings_have_one_fingerprint() -> None:
    config = load(origin_retries=1, models=["/m"])
    assert fingerprint(config) == fingerprint(load({"HUBDIST_ORIGIN_RETRIES": "1"}, models=["/m"]))
    assert fingerprint(config) != fingerprint(load(origin_retries=2, models=["/m"]))
    assert fingerprint(config) != fingerprint(config.replace({"origins": {"mine": MemorySource}}))


def test_a_config_that_the_user_makes_by_hand_is_checked_too() -> None:
    with pytest.raises((HubdistError, ValidationError)):
        Config(origin_retries="many")  # type: ignore[arg-type]


def test_a_config_made_by_hand_is_checked_in_the_same_words() -> None:
    with pytest.raises(ConfigError, match="'many' for 'origin_retries' in the arguments of Config"):
        Config(origin_retries="many")
    with pytest.raises(ConfigError, match=r"unknown key 'retrys'.*Known keys: store"):
        Config(retrys=3)
