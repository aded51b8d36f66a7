"""Settings that contradict each other or have no effect are refused; settings that were made do not change."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import hubdist
from hubdist.config.handover import hand_down, rooted, without_secrets
from hubdist.config.model_settings import FrozenDict, ListedModel, ModelSettings, check_call
from hubdist.config.schema import Config
from hubdist.config.sources import VARIABLE
from hubdist.errors import ConfigError
from hubdist.model.handle import parse_handle
from hubdist.report.delivery import NodeReport, PinReport, Report
from hubdist.report.plan import NodePlan, Plan, Refreshed, Status
from hubdist.resolver.resolver import Resolver
from hubdist.store.store import Store
from hubdist.testing.memory import MemorySource

DIGEST = f"sha256:{'0' * 64}"
SPELLINGS = [
    ("https://tfhub.dev/a/b/1", "https://tfhub.dev/a/b/1/"),
    ("https://tfhub.dev/a/b/1", "https://TFHUB.dev:443/a/b/1?tf-hub-format=compressed"),
    ("gs://bucket/model", "gcs://bucket/model/"),
    ("/models/mnist", "file:///models/mnist/"),
    ("kaggle://o/m/tensorFlow2/v/1", "https://www.kaggle.com/models/o/m/tensorFlow2/v/1"),
    ("registry://m", "registry://m"),
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
@pytest.mark.parametrize("digests", [(DIGEST, None), (None, DIGEST), (None, None), (DIGEST, DIGEST)])
def test_a_model_is_listed_once(one: str, other: str, digests: tuple[str | None, str | None]) -> None:
    listed = [{"handle": handle, "digest": digest} for handle, digest in zip((one, other), digests, strict=True)]
    with pytest.raises(ConfigError, match=r"'models' in the arguments of Config .*is listed twice"):
        Config(models=listed)


def test_a_model_that_is_listed_twice_is_named_without_its_secrets() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_yaml("models:\n- https://me:hunter2@h/m.zip\n- handle: https://me:hunter2@h/m.zip\n", "here")
    assert "'models' in here" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True), st.data())
def test_what_is_set_for_a_listed_model_is_enforced(names: list[str], data: st.DataObject) -> None:
    """Whatever the list, a digest that was given is the one that counts."""
    digests = {name: data.draw(st.none() | st.just(f"sha256:{ord(name) % 10}" + "0" * 63)) for name in names}
    config = Config(models=[{"handle": f"gs://bucket/{name}", "digest": digest} for name, digest in digests.items()])
    found = config.model_settings()
    for name, digest in digests.items():
        settings = found[parse_handle(f"gs://bucket/{name}/").key]
        assert (None if settings.digest is None else str(settings.digest)) == digest


PART = st.sampled_from(["a", "b", "{node_id}"])


@given(st.lists(PART, min_size=1, max_size=4), st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4))
def test_store_and_shared_cache_lie_apart(store: list[str], cache: list[str]) -> None:
    settings = {"store": f"/{'/'.join(store)}", "shared_cache": f"/{'/'.join(cache)}"}
    length = min(len(store), len(cache))
    if store[:length] == cache[:length]:
        with pytest.raises(ConfigError, match=r"'shared_cache'.*the store"):
            Config(**settings)
    else:
        Config(**settings)


@pytest.mark.parametrize(
    ("store", "cache"),
    [("~/x", "{home}/x/cache"), ("/a/b/", "/a/b"), ("/a/b", "file:///a"), ("/a/c/../b", "/a/b"), ("/a/b", "/")],
)
def test_store_and_shared_cache_lie_apart_however_they_are_written(store: str, cache: str) -> None:
    with pytest.raises(ConfigError, match=r"'shared_cache'.*the store"):
        Config(store=store, shared_cache=cache.format(home=Path.home()))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"shared_cache_read_only": True}, "shared_cache_read_only"),
        ({"route": "shared"}, "route"),
        ({"models": [{"handle": "/m", "route": "shared"}]}, "models"),
        ({"max_loaded_models": 0, "max_loaded_bytes": "1GiB"}, "max_loaded_bytes"),
    ],
)
def test_a_setting_without_effect_is_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' in an argument of init contradicts the other settings: "):
        Config.load(settings, {})
    with pytest.raises(ConfigError, match=f"'{key}' in an argument of init contradicts"):
        Config().replace(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"shared_cache_read_only": True, "shared_cache": "gs://bucket/cache"},
        {"route": "shared", "shared_cache": "/cache"},
        {"max_loaded_models": 0, "max_loaded_bytes": 0},
        {"shared_cache": "/a/bc", "store": "/a/b"},
        {"models": ["gs://bucket/a", "gs://bucket/b"]},
    ],
)
def test_settings_that_agree_are_taken_also_by_nodes(settings: dict[str, Any]) -> None:
    without_secrets(Config(**settings)).replace({"origin_retries": 1})


@pytest.mark.parametrize("route", ["auto", "shared", "direct", "driver", None])
def test_a_call_may_ask_for_any_route(route: str | None) -> None:
    check_call(route, None)


@pytest.mark.parametrize("asked", [{"route": "pigeon"}, {"read_mode": "never"}, {"route": "tf-host"}])
def test_a_call_that_asks_for_what_does_not_exist_is_refused(asked: dict[str, str]) -> None:
    (key,) = asked
    with pytest.raises(ConfigError, match=f"'{key}' in this call"):
        check_call(asked.get("route"), asked.get("read_mode"))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"locked": True}, "locked"),
        ({"locked": True, "lock_file": "hubdist.lock", "frozen": True}, "frozen"),
        ({"locked": True, "lock_file": "hubdist.lock", "offline": True}, "offline"),
    ],
)
def test_locked_settings_that_could_not_hold_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' in .* contradicts"):
        Config(**settings)
    assert Config(locked=True, lock_file="hubdist.lock").locked


# Relative paths


@pytest.mark.parametrize("value", ["", " ", "gs://bucket/hubdist.lock", "file:///hubdist.lock", "folder/"])
def test_what_is_no_path_of_a_file_is_no_lock_file(value: str) -> None:
    with pytest.raises(ConfigError, match=r"'lock_file'.*the path of a file on the driver's disk"):
        Config(lock_file=value)


def test_an_empty_path_is_no_cache_of_tensorflow_hub() -> None:
    with pytest.raises(ConfigError, match=r"'tfhub_cache_dir'.*the path of a directory"):
        Config(tfhub_cache_dir="")


def test_relative_paths_are_those_of_one_directory(tmp_path: Path) -> None:
    made = Config(lock_file="a/hubdist.lock", tfhub_cache_dir="cache", origin_retries=1)
    found = rooted(made, tmp_path)
    assert found.lock_file == f"{tmp_path}/a/hubdist.lock"
    assert found.tfhub_cache_dir == f"{tmp_path}/cache"
    assert found.origin_retries == 1
    assert rooted(found, Path("/elsewhere")) == found
    assert rooted(made, None) == made
    homely = Config(lock_file="~/hubdist.lock", tfhub_cache_dir="/cache")
    assert rooted(homely, tmp_path) == homely


@pytest.mark.parametrize("key", ["lock_file", "tfhub_cache_dir"])
def test_a_relative_path_without_a_directory_is_refused(tmp_path: Path, key: str) -> None:
    """Who makes a coordinator in a task runs in a directory that nobody chose; a lock file there would be forgotten."""
    with pytest.raises(ConfigError, match=rf"{key} .*relative path 'x'.*absolute path"):
        Resolver(Config.load({key: "x"}, {}), Store(tmp_path / "store"), None)
    Resolver(Config.load({key: "x"}, {}), Store(tmp_path / "store"), tmp_path)


def test_processes_that_are_started_elsewhere_use_the_same_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    hand_down(Config(store=str(tmp_path / "store"), lock_file="hubdist.lock"), "node")
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-c", "from hubdist.config.schema import Config; print(Config.load().lock_file)"]
    found = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == f"{tmp_path}/hubdist.lock"


# Values that are handed out


def origin(_: str) -> MemorySource:
    return MemorySource({"saved_model.pb": b""})


@pytest.mark.parametrize(
    "made", [Config(), Config(origins={"a": origin}), without_secrets(Config(origins={"a": origin}))]
)
def test_settings_cannot_be_changed(made: Config) -> None:
    for name in Config.model_fields:
        with pytest.raises(ValidationError):
            setattr(made, name, None)
    with pytest.raises(TypeError):
        made.origins["b"] = origin  # type: ignore[index]
    with pytest.raises(TypeError):
        del made.origins["a"]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        made.origins._items = {}  # type: ignore[attr-defined]


def test_settings_do_not_change_with_what_they_were_made_from() -> None:
    origins: dict[str, Any] = {"a": origin}
    models: list[Any] = [{"handle": "/m", "digest": DIGEST}]
    made = Config(origins=origins, models=models)
    origins["b"] = origin
    models[0]["digest"] = None
    models.append("/n")
    assert dict(made.origins) == {"a": origin}
    assert made.models == (ListedModel(handle="/m", digest=DIGEST),)
    made.explicit_values().clear()
    made.model_settings().clear()
    assert made == Config(origins={"a": origin}, models=[{"handle": "/m", "digest": DIGEST}])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_settings_travel(copied: Any) -> None:
    made = Config(origins={"a": origin}, origin_retries=1)
    again = copied(made)
    assert again == made
    assert isinstance(again.origins, FrozenDict)
    assert cloudpickle.loads(cloudpickle.dumps(made)) == made


REPORTS = [Refreshed, NodeReport, PinReport, Report, NodePlan, Plan, Status, ModelSettings]


@pytest.mark.parametrize("kind", REPORTS, ids=lambda kind: kind.__name__)
def test_what_is_reported_is_frozen_and_holds_nothing_that_can_be_changed(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    for field in dataclasses.fields(kind):
        assert not any(word in str(field.type).lower() for word in ("list", "dict", "set[", "mapping", "array")), field


def test_what_calls_give_can_be_changed_without_harm(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "data").write_bytes(b"x")
    hubdist.init(store=str(tmp_path / "store"))
    report = hubdist.prefetch(str(tmp_path / "model"))
    before = repr(hubdist.status())
    report.bytes_by_source["somebody"] = 1
    for value in (report, hubdist.status(), hubdist.plan(str(tmp_path / "model"))):
        with pytest.raises(AttributeError):
            setattr(value, dataclasses.fields(value)[0].name, ())
    assert repr(hubdist.status()) == before
    assert report.bytes_by_source == {}
