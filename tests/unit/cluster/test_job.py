"""What is true of a job, in whatever process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from hubdist.cluster.job import Job, Terms
from hubdist.config.handover import with_store_of
from hubdist.config.model_settings import ModelSettings
from hubdist.config.schema import Config
from hubdist.errors import ConfigError, DigestMismatchError
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest

HANDLE = parse_handle("https://tfhub.dev/google/model/1")
DIGEST = Digest("1" * 64)


def test_on_the_drivers_node_all_mean_the_drivers_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its raylet may have been started with another environment than the driver."""
    job = Job.of(Config(), None, "scope", ("driver", "/home/alice/.cache/hubdist"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/ray")
    assert job.config_on("driver").store_root("driver") == Path("/home/alice/.cache/hubdist")
    assert job.config_on("other").store_root("other") == Path("/scratch/ray/hubdist")
    assert job.whole_config("driver").store_root("driver") == Path("/home/alice/.cache/hubdist")


def test_a_client_outside_has_its_own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/alice/.cache")
    job = Config(store="/nodes", read_mode="memory")
    assert with_store_of(job, Config()).store_root("outside") == Path("/home/alice/.cache/hubdist")
    assert with_store_of(job, Config(store="/mine")).store_root("outside") == Path("/mine")
    assert with_store_of(job, Config()).read_mode == "memory"


def test_origins_that_cannot_be_imported_are_an_error_of_the_settings() -> None:
    broken = b"cno_such_module\norigin\n."
    job = Job(Config(), "f", {}, frozenset({"mine"}), broken, None, "scope")
    with pytest.raises(ConfigError, match="origins mine cannot be unpickled: ModuleNotFoundError"):
        job.whole_config("node")


def test_a_job_pickles_without_secrets_of_its_models() -> None:
    config = Config(models=[{"handle": "https://user:hunter2@host.example/model/1", "digest": str(DIGEST)}])
    data = pickle.dumps(Job.of(config, None, "scope"))
    assert b"hunter2" not in data
    assert [settings.digest for settings in pickle.loads(data).models.values()] == [DIGEST]


def test_terms_of_a_process_win_over_the_job_where_they_say_something() -> None:
    of_job = ModelSettings(DIGEST, "driver", "memory")
    assert Terms().settings(HANDLE, of_job) == of_job
    terms = Terms(models={HANDLE.key: ModelSettings(None, "shared", None)})
    assert terms.settings(HANDLE, of_job) == ModelSettings(DIGEST, "shared", "memory")


def test_terms_refuse_other_bytes() -> None:
    terms = Terms(models={HANDLE.key: ModelSettings(DIGEST)})
    terms.check(HANDLE, DIGEST)
    with pytest.raises(DigestMismatchError, match="other bytes than the settings of this process"):
        terms.check(HANDLE, Digest("2" * 64))
