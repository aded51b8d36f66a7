"""`hubdist config`: what holds, where it comes from, and the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from hubdist.cli.main import hubdist_command
from hubdist.config.shown import settings_schema
from tests.support import REPOSITORY

CONFIGS = REPOSITORY / "configs"


def config(*arguments: str) -> Any:
    return CliRunner().invoke(hubdist_command, ["config", *arguments])


def test_show_names_the_place_of_each_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named.yaml").write_text("offline: true\nroute: direct\nmax_store_bytes: 3GiB\n")
    (tmp_path / "given.yaml").write_text("route: shared\nshared_cache: /mnt/x\nlink: 10Gbit/s\n")
    monkeypatch.setenv("HUBDIST_CONFIG", str(tmp_path / "named.yaml"))
    monkeypatch.setenv("HUBDIST_FROZEN", "true")
    done = config("show", "--json", "--config", str(tmp_path / "given.yaml"), "--set", "link=25Gbit/s")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["offline"] == {"value": True, "source": str(tmp_path / "named.yaml")}
    assert found["route"] == {"value": "shared", "source": str(tmp_path / "given.yaml")}
    assert found["frozen"] == {"value": True, "source": "HUBDIST_FROZEN"}
    assert found["link"]["source"] == "--set link"
    assert found["max_loaded_models"] == {"value": 8, "source": "default"}
    assert "max_store_bytes=3GiB" in config("show", "-q").stdout.splitlines()


def test_show_prints_no_secret() -> None:
    secret = 'models=["https://anna:pa55word@example.com/m/1?token=s3cret"]'
    for form in ("human", "json", "quiet"):
        done = config("show", "--format", form, "--set", secret, "--set", "shared_cache=gs://bucket/dir")
        assert done.exit_code == 0, done.output
        assert "example.com/m/1" in done.stdout
        assert not any(word in done.output for word in ("pa55word", "anna", "s3cret"))


def test_validate_reads_files_as_jobs_do(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("no_such_key: 1\n")
    assert config("validate", str(CONFIGS / "hubdist.yaml")).exit_code == 0
    done = config("validate", str(CONFIGS / "hubdist.yaml"), str(wrong))
    assert done.exit_code == 2
    assert "no_such_key" in done.stdout
    assert "hubdist.yaml: ok" in done.stdout


def test_the_schema_takes_what_the_settings_take() -> None:
    schema = settings_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.safe_load((CONFIGS / "hubdist.yaml").read_text(encoding="utf-8")))
    validator.validate({"models": ["gs://b/m", {"handle": "gs://b/m", "route": "direct"}], "link": "25Gbit/s"})
    validator.validate({"max_store_bytes": "50GiB"})
    for wrong in ({"no_such_key": 1}, {"route": "by air"}, {"models": [{"digest": "x"}]}, {"origin_retries": -1}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(wrong)
