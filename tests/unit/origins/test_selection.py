"""A choice of files: the same patterns for every kind of origin, and a model of its own everywhere."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hubdist
from hubdist import errors
from hubdist.config.schema import Config
from hubdist.model.handle import parse_handle
from hubdist.model.selection import Selection, selected
from hubdist.resolver.resolver import Resolver
from hubdist.store.store import Store
from hubdist.testing.hub import LoopbackHub
from hubdist.testing.memory import MemorySource
from tests.support.archives import targz, zipped
from tests.support.examples import examples

FILES = {"config.json": b"{}", "weights.bin": b"w" * 100, "assets/words.txt": b"one", "assets/more/x.json": b"[]"}
CHOSEN = {"config.json", "assets/more/x.json"}
"""What `*.json` matches: `*` crosses slashes."""


def at_path(folder: Path, _: LoopbackHub) -> str:
    for path, data in FILES.items():
        (folder / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model" / path).write_bytes(data)
    return str(folder / "model")


def in_archive(folder: Path, _: LoopbackHub) -> str:
    (folder / "m.zip").write_bytes(zipped({f"in/{path}": data for path, data in FILES.items()}))
    return f"zip://in::{folder / 'm.zip'}"


def at_hub(_: Path, hub: LoopbackHub) -> str:
    return hub.add_model("acme/model/1", FILES)


def by_url(folder: Path, hub: LoopbackHub) -> str:
    return hub.add_file("m.tar.gz", targz(FILES))


def of_ones_own(_: Path, __: LoopbackHub) -> str:
    return "own://model"


PLACES = [at_path, in_archive, at_hub, by_url, of_ones_own]


@pytest.mark.parametrize("place", PLACES)
def test_every_kind_of_origin_gives_the_chosen_files_alone(
    place: Callable[[Path, LoopbackHub], str], tmp_path: Path
) -> None:
    with LoopbackHub() as hub:
        handle = place(tmp_path, hub)
        hubdist.init(store=str(tmp_path / "store"), origins={"own": lambda _: MemorySource(FILES)})
        root = Path(hubdist.resolve(handle, include="*.json"))
        assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == CHOSEN
        assert (root / "config.json").read_bytes() == b"{}"
        others = Path(hubdist.resolve(handle, exclude=["*.json"]))
        assert {path.name for path in others.rglob("*") if path.is_file()} == {"weights.bin", "words.txt"}
        with pytest.raises(errors.ModelNotFoundError, match=r"no file of .* is chosen by include=\*\.none"):
            hubdist.resolve(handle, include="*.none")
        hubdist.shutdown()


def test_files_of_a_directory_that_are_not_chosen_are_not_read(tmp_path: Path) -> None:
    handle = at_path(tmp_path, None)  # type: ignore[arg-type]  # which needs no hub
    os.mkfifo(tmp_path / "model" / "pipe")  # which would be read without end
    hubdist.init(store=str(tmp_path / "store"))
    with pytest.raises(errors.HubdistError):
        hubdist.resolve(handle)
    (tmp_path / "model" / "pipe").unlink()
    read: list[str] = []
    source = MemorySource(FILES)
    plain = source.read
    source.read = lambda path, start, end: read.append(path) or plain(path, start, end)  # type: ignore[method-assign,func-returns-value]
    hubdist.init(store=str(tmp_path / "store"), origins={"own": lambda _: source})
    hubdist.resolve("own://model", include="*.json")
    assert set(read) == CHOSEN
    hubdist.shutdown()


def test_a_choice_in_the_settings_is_that_of_a_call(tmp_path: Path) -> None:
    handle = at_path(tmp_path, None)  # type: ignore[arg-type]  # which needs no hub
    config = Config.from_yaml(f'models:\n  - handle: {handle}\n    include: ["*.json"]\n    exclude: more/\n')
    assert parse_handle(config.models[0].handle) == parse_handle(selected(handle, "*.json", "more/"))  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="include is an empty list"):
        Config.from_yaml(f"models:\n  - handle: {handle}\n    include: []\n")
    with pytest.raises(errors.ConfigError, match="chooses files, and this call does so too"):
        Config.from_yaml(f"models:\n  - handle: 'files://include=a::{handle}'\n    include: [b]\n")
    with pytest.raises(errors.ConfigError, match="listed twice"):
        Config.from_yaml(f"models:\n  - files://include=a::{handle}\n  - handle: {handle}\n    include: [a]\n")


def test_a_choice_survives_the_lock_file(tmp_path: Path) -> None:
    handle, lock = selected(at_path(tmp_path, None), "*.json", None), tmp_path / "hubdist.lock"  # type: ignore[arg-type]
    config = Config(store=str(tmp_path / "store"), lock_file=str(lock))
    resolver = Resolver(config, Store(tmp_path / "store"), tmp_path)
    first = resolver.find_or_read(resolver.parse(str(handle)))
    frozen = Resolver(config.replace({"frozen": True}), Store(tmp_path / "store"), tmp_path)
    assert frozen.find_or_read(frozen.parse(str(handle))).digest == first.digest
    with pytest.raises(errors.NotPinnedError):
        frozen.find_or_read(frozen.parse(at_path(tmp_path, None)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "files://include=a",
        "files://::/m",
        "files://a::/m",
        "files://include=::/m",
        "files://include=a::files://include=b::/m",
        "zip://in::files://include=b::/m.zip",
        "files://include=a::",
    ],
)
def test_a_choice_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(errors.HandleError):
        parse_handle(text)


def test_no_secret_of_the_handle_is_shown() -> None:
    handle = parse_handle("files://include=*.json&exclude=a@b::https://me:secret@h.example/m.zip?token=secret")
    assert "secret" not in handle.redacted + handle.label + repr(handle)
    assert "*.json" in handle.redacted


_PATTERNS = st.lists(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=6), max_size=3)


@given(_PATTERNS, _PATTERNS, st.text(st.sampled_from("ab/*[]&=%:@ +"), max_size=8))
@settings(max_examples=examples(300), deadline=None)
def test_patterns_travel_in_a_handle_and_mean_what_fnmatch_says(
    include: list[str], exclude: list[str], path: str
) -> None:
    include, exclude = ([pattern for pattern in each if pattern.strip()] for each in (include, exclude))
    text = selected("/models/m", include or None, exclude)
    found = parse_handle(str(text)).selection
    assert found == Selection.of(include or None, exclude)

    def matches(patterns: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(path, f"{each}*" if each.endswith("/") else each) for each in patterns)

    assert found.accepts(path) == ((not include or matches(include)) and not matches(exclude))
