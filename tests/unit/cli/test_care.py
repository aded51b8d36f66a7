"""The commands that care for models on disk: what they print, what they do, and how they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import hubdist
from hubdist.care import collection
from hubdist.care.listing import StoredModel
from hubdist.cli.amounts import parse_age, parse_size, show_age
from hubdist.cli.filters import parse_filter, sort_models
from hubdist.cli.main import hubdist_command
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.report.delivery import size_text
from hubdist.store.pins import Pins, last_pins
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree
from tests.support import REPOSITORY
from tests.support.store_models import home, model, publish


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with models of 1, 2 and 3 kB; the largest was used last."""
    monkeypatch.setenv("HUBDIST_STORE", str(tmp_path / "store"))
    store = Store(tmp_path / "store")
    for number in (1, 2, 3):
        publish(store, model(number, 1000 * number)).release()
        used = time.time() - 86400 * (4 - number) - 60
        os.utime(home(store, digest_of(number)) / "in-use", (used, used))
    yield store
    remove_tree(tmp_path / "store")


def digest_of(number: int) -> Digest:
    return _DIGESTS[number]


@pytest.fixture(scope="module", autouse=True)
def _digests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = tmp_path_factory.mktemp("digests")
    for number in (1, 2, 3):
        with publish(Store(root), model(number, 1000 * number)) as snapshot:
            _DIGESTS[number] = snapshot.manifest.digest
    yield
    remove_tree(root)


_DIGESTS: dict[int, Digest] = {}


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(hubdist_command, list(args))
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def damage(store: Store, number: int) -> None:
    file = home(store, digest_of(number)) / "files" / "saved_model.pb"
    file.chmod(0o600)
    file.write_bytes(b"x" * file.stat().st_size)


def test_ls_shows_what_was_used_last_first(store: Store) -> None:
    lines = run("ls").stdout.splitlines()
    assert re.split(r"\s{2,}", lines[0]) == ["DIGEST", "SIZE", "FILES", "USED", "STAYS", "HANDLE"]
    assert [line.split()[0] for line in lines[1:4]] == [f"sha256:{digest_of(n).value[:12]}" for n in (3, 2, 1)]
    assert lines[4] == "3 models, 6.0 kB"


def test_ls_filters_sorts_and_limits(store: Store) -> None:
    def listed(*args: str) -> list[str]:
        return run("ls", "-q", *args).stdout.split()

    def digests(*numbers: int) -> list[str]:
        return [str(digest_of(number)) for number in numbers]

    assert listed("--filter", "size>1kB") == digests(3, 2)
    assert listed("--filter", "used>30h", "--filter", "size>=2000") == digests(2)
    assert listed("--sort", "size:asc") == digests(1, 2, 3)
    assert listed("--sort", "used:asc", "--limit", "1") == digests(1)
    assert listed("--filter", f"digest=sha256:{digest_of(2).value[:8]}*") == digests(2)
    assert listed("--filter", "kept=true") == []


def test_ls_gives_records_for_programs(store: Store) -> None:
    collection.keep(store, [digest_of(2)])
    handle = parse_handle("gs://bucket/model")
    Pins(last_pins(store.root)).keep(handle, digest_of(2))
    records = json.loads(run("ls", "--json").stdout)
    record = next(each for each in records if each["digest"] == str(digest_of(2)))
    assert record["kept"]
    assert record["handles"] == ["gs://bucket/model"]
    assert record["bytes"] == 2000
    assert run("ls", "-q", "--filter", "handle=gs://bucket/*").stdout.strip() == str(digest_of(2))


def test_ls_of_no_store_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBDIST_STORE", str(tmp_path / "none"))
    assert run("ls").stdout == "0 models, 0 B\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("wrong", ["size", "size>big", "age>3d", "used>3", "kept>true", "kept=maybe", "files>x"])
def test_a_filter_that_is_none_is_wrong_use(store: Store, wrong: str) -> None:
    assert "Usage" in run("ls", "--filter", wrong, code=2).stderr


def test_a_model_is_named_by_the_handle_that_it_was_resolved_by(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "saved_model.pb").write_bytes(b"graph")
    handle = str(tmp_path / "mine")
    hubdist.resolve(handle)
    assert run("ls", "-q", "--filter", f"handle={handle}").stdout
    assert "running program uses its path" in run("rm", "-y", handle, code=1).stderr
    run("keep", handle)


@pytest.mark.parametrize("target", ["handle", "digest", "prefix", "bare prefix"])
def test_rm_takes_handles_digests_and_their_first_digits(store: Store, target: str) -> None:
    Pins(last_pins(store.root)).keep(parse_handle("gs://bucket/model"), digest_of(1))
    digest = str(digest_of(1))
    named = {"handle": "gs://bucket/model", "digest": digest, "prefix": digest[:13], "bare prefix": digest[7:13]}
    run("rm", "-y", named[target])
    assert store.find(digest_of(1)) is None
    assert len(store.digests()) == 2


def test_rm_asks_nobody_in_a_script_and_deletes_nothing_then(store: Store) -> None:
    run("rm", str(digest_of(1)), code=2)
    assert len(store.digests()) == 3


def test_rm_of_what_is_not_there_is_not_found(store: Store) -> None:
    assert "hubdist ls" in run("rm", "-y", "sha256:" + "0" * 64, code=3).stderr
    assert "hubdist ls" in run("rm", "-y", "gs://bucket/other", code=3).stderr
    run("rm", "-y", "sha256:12", code=2)


def test_rm_never_deletes_what_is_used_or_kept(store: Store) -> None:
    snapshot = store.find(digest_of(1))
    assert snapshot is not None
    with snapshot:
        assert "a process uses it" in run("rm", "-y", str(digest_of(1)), code=1).stderr
    run("keep", str(digest_of(1)))
    assert "it is kept" in run("rm", "-y", str(digest_of(1)), str(digest_of(2)), code=1).stderr
    assert store.find(digest_of(1)) is not None
    assert store.find(digest_of(2)) is None
    run("release", str(digest_of(1)))
    run("rm", "-y", str(digest_of(1)))


def test_rm_tells_what_it_would_delete(store: Store) -> None:
    assert "2.0 kB would be deleted" in run("rm", "--dry-run", str(digest_of(2))).stdout
    assert len(store.digests()) == 3


def test_gc_deletes_by_age_and_size(store: Store) -> None:
    assert run("gc", "-q", "--max-age", "60h", "--dry-run").stdout.split() == [str(digest_of(1))]
    assert run("gc", "-q", "--max-age", "60h").stdout.split() == [str(digest_of(1))]
    assert "1 model, 2.0 kB deleted" in run("gc", "--max-bytes", "4kB").stdout
    assert store.digests() == [digest_of(3)]


def test_keep_outlives_the_process(store: Store) -> None:
    subprocess.run([sys.executable, "-m", "hubdist", "keep", str(digest_of(1))], cwd=REPOSITORY, check=True, timeout=60)
    assert not store.evict(digest_of(1))
    assert json.loads(run("release", "--json", str(digest_of(1))).stdout)[0]["released"]
    assert store.evict(digest_of(1))


def test_verify_finds_damage_and_says_so(store: Store) -> None:
    assert run("verify").stdout == "3 models, 6.0 kB: all whole\n"
    damage(store, 2)
    result = run("verify", code=5)
    assert "saved_model.pb differs in 1 blocks" in result.stdout
    assert "verify --repair" in result.stderr
    assert run("verify", "-q", code=5).stdout.split() == [str(digest_of(2))]
    run("verify", str(digest_of(1)))


def test_verify_repairs_from_the_origin_if_nobody_else_has_the_model(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "saved_model.pb").write_bytes(model(2, 2000)["saved_model.pb"])
    Pins(last_pins(store.root)).keep(parse_handle(str(origin)), digest_of(2))
    damage(store, 2)
    result = run("verify", "--repair", "--address", "local")
    assert f"repaired, from the origin of {origin}" in result.stdout
    run("verify")
    assert not list((store.root / "staging").iterdir())


def test_verify_repairs_from_the_shared_cache_before_the_origin(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubdist.shared_cache.cache import SharedCache
    from hubdist.system.deadline import Deadlines

    snapshot = store.find(digest_of(2))
    assert snapshot is not None
    with snapshot:
        SharedCache(str(tmp_path / "cache"), Deadlines(), in_flight_bytes=4 << 20).fill(snapshot)
    monkeypatch.setenv("HUBDIST_SHARED_CACHE", str(tmp_path / "cache"))
    damage(store, 2)
    assert "from the shared cache" in run("verify", "--repair", "--address", "local").stdout


def test_verify_moves_aside_what_nobody_can_mend(store: Store) -> None:
    damage(store, 2)
    assert "moved to the quarantine" in run("verify", "--repair", "--address", "local", code=5).stdout
    run("verify")
    assert store.find(digest_of(2)) is None


def test_a_store_by_node_is_not_guessed_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBDIST_STORE", str(tmp_path / "{node_id}"))
    assert "--where all" in run("ls", "--address", "local", code=2).stderr


@pytest.mark.parametrize("command", ["ls", "verify", "rm", "gc", "keep", "release"])
def test_help_has_examples_and_loads_nothing_heavy(command: str) -> None:
    look = (
        "import sys; from hubdist.cli.main import hubdist_command as c\n"
        f"try: c.main([{command!r}, '--help'], standalone_mode=True)\n"
        "except SystemExit:\n"
        "  print('\\nloaded', *{'ray', 'tensorflow', 'gcsfs', 'pydantic', 'rich', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert "Examples" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "loaded"


def test_sizes_and_times_are_read_and_shown() -> None:
    assert [parse_size(text) for text in ("12", "1kB", "1.5GB", "2GiB")] == [12, 1000, 1_500_000_000, 2 << 30]
    assert [parse_age(text) for text in ("45s", "90m", "12h", "30d", "2w")] == [45, 5400, 43200, 2592000, 1209600]
    for wrong in ("", "x", "1XB", "-3"):
        with pytest.raises(click.BadParameter):
            parse_size(wrong)
    with pytest.raises(click.BadParameter):
        parse_age("30")
    assert [size_text(size) for size in (0, 999, 16_800_000, 2_500_000_000_000)] == [
        "0 B",
        "999 B",
        "16.8 MB",
        "2.50 TB",
    ]
    assert [show_age(age) for age in (0, 61, 7200, 90000)] == ["now", "1 minute ago", "2 hours ago", "1 day ago"]


def test_models_without_a_handle_come_last_by_name() -> None:
    named = StoredModel(Digest("1" * 64), ("b",), 1, 1, 0)
    nameless = StoredModel(Digest("2" * 64), (), 1, 1, 0)
    assert [pair[1] for pair in sort_models([("", nameless), ("", named)], "handle")] == [named, nameless]
    assert parse_filter("used<1h")(named, 1800.0)
