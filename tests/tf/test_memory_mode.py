"""Models in TensorFlow's memory: filled in order, checked, loaded with real TensorFlow, freed."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import hubdist
from hubdist.errors import ConfigError, DigestMismatchError, IntegrityError, NotAModelError, TransferTimeoutError
from hubdist.loading import InPlaceModel, LoadedModels, LoadKey, PickleHooks, RamModel, load_key, open_model
from hubdist.loading.remote_tasks.assets import RemoteAssets, call_within
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import BLOCK_BYTES, Digest, Entry, EntryDigester, Manifest
from hubdist.store.snapshot import Snapshot
from tests.support import REPOSITORY

pytestmark = pytest.mark.tf

WORDS = [[2.0, 3.0], [4.0, 6.0], [-2.0, -3.0]]


def snapshot_of(root: Path) -> Snapshot:
    entries = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digester = EntryDigester(path.relative_to(root).as_posix())
            digester.update(path.read_bytes())
            entries.append(digester.entry())
    return Snapshot(root, Manifest.of(entries))


def read(snapshot: Snapshot, chunk: Any) -> memoryview:
    data = memoryview(bytearray(chunk.size))
    snapshot.read_chunk(chunk, data)
    return data


def in_memory(root: Path, chunk_bytes: int = BLOCK_BYTES) -> RamModel:
    snapshot = snapshot_of(root)
    model = RamModel(snapshot.manifest)
    for chunk in cut_chunks(snapshot.manifest, chunk_bytes):
        model.write_chunk(chunk, read(snapshot, chunk))
    model.finish()
    return model


def never(*_args: Any) -> Any:
    raise NotImplementedError


def key_of(manifest: Manifest, device: str | None = None) -> LoadKey:
    return load_key("a handle", manifest.digest, None, None, device)


def open_here(place: Any) -> Any:
    return open_model(place, key_of(place.manifest), PickleHooks(never, never, never))


def held(path: str = "ram://hubdist-*") -> list[str]:
    """Every file and directory of hubdist in TensorFlow's memory."""
    import tensorflow as tf

    return sorted(name for depth in ("", "/*", "/*/*", "/*/*/*") for name in tf.io.gfile.glob(path + depth))


def ask(model: Any) -> Any:
    import tensorflow as tf

    return model(tf.constant(["one", "two", "unknown"])).numpy().tolist()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    yield
    gc.collect()
    assert held() == []


def test_a_model_in_memory_answers_as_from_its_directory(models: Path) -> None:
    model = open_here(in_memory(models / "tf2"))
    assert ask(model) == ask(open_here(snapshot_of(models / "tf2"))) == WORDS


def test_a_tf1_model_in_memory_answers_as_from_its_directory(models: Path) -> None:
    import tensorflow as tf

    model = open_here(in_memory(models / "tf1"))
    assert model.signatures["serving_default"](x=tf.constant([[1.0, 2.0]]))["y"].numpy().tolist() == [[21.0]]
    assert held() == []


def test_after_the_load_only_assets_stay_and_go_with_the_model(models: Path) -> None:
    place = in_memory(models / "tf2")
    assert f"{place.path}/variables/variables.index" in held()
    model = open_here(place)
    assert held() == [place.path, f"{place.path}/assets", f"{place.path}/assets/vocabulary.txt"]
    del model
    gc.collect()
    assert held() == []


def test_assets_stay_while_a_function_of_a_collected_model_can_read_them(tmp_path: Path) -> None:
    import tensorflow as tf

    (tmp_path / "words.txt").write_text("some words")
    module = tf.Module()
    module.asset = tf.saved_model.Asset(str(tmp_path / "words.txt"))
    module.read = tf.function(lambda: tf.io.read_file(module.asset.asset_path), input_signature=[])
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"read": module.read})
    signature = open_here(in_memory(tmp_path / "model")).signatures["read"]
    gc.collect()
    assert signature()["output_0"].numpy() == b"some words"
    assert len(held()) == 3
    del signature
    gc.collect()
    assert held() == []


def test_a_snapshot_is_in_use_as_long_as_its_model(models: Path) -> None:
    released: list[bool] = []
    snapshot = snapshot_of(models / "tf2")
    snapshot.release = lambda: released.append(True)  # type: ignore[method-assign] # a finalizer calls it
    model = open_here(snapshot)
    gc.collect()
    assert released == []
    del model
    gc.collect()
    assert released == [True]


def test_in_a_graph_the_files_stay_until_the_variables_are_restored(models: Path) -> None:
    import tensorflow as tf

    with tf.Graph().as_default():
        place = in_memory(models / "tf2")
        model = open_here(place)
        assert f"{place.path}/variables/variables.index" in held()
        answer = model(tf.constant(["two"]))
        with tf.compat.v1.Session() as session:
            session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()])
            assert session.run(answer).tolist() == [[4.0, 6.0]]
    place.release()


_GIVEN_BACK = """
import os, sys
from pathlib import Path

from hubdist.model.manifest import BLOCK_BYTES
from tests.tf.test_memory_mode import in_memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

model = Path(sys.argv[1])
in_memory(model, 4 * BLOCK_BYTES).release()  # what allocators keep for themselves is there now
before = resident_bytes()
place = in_memory(model, 4 * BLOCK_BYTES)
held = resident_bytes() - before
place.release()
print(held, resident_bytes() - before)
"""


def test_memory_is_given_back(tmp_path: Path) -> None:
    size = 96 << 20
    (tmp_path / "saved_model.pb").write_bytes(os.urandom(size))
    # In a process of its own: this one may have room that other tests have left, and then it does not grow.
    command = [sys.executable, "-c", _GIVEN_BACK, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    held, left = map(int, done.stdout.split())
    assert held > size * 0.5 > left


def test_the_read_mode_memory_loads_from_memory(models: Path, tmp_path: Path) -> None:
    hubdist.init(store=str(tmp_path / "store"))
    model = hubdist.load(str(models / "tf2"), read_mode="memory")
    assert ask(model) == WORDS
    assert len(held()) == 3
    hubdist.shutdown()


@pytest.mark.parametrize("which", ["damaged", "short", "out of order"])
def test_what_does_not_fit_is_refused_and_frees_everything(models: Path, which: str) -> None:
    snapshot = snapshot_of(models / "tf2")
    model = RamModel(snapshot.manifest)
    chunks = cut_chunks(snapshot.manifest, BLOCK_BYTES)
    data = read(snapshot, chunks[0])
    if which == "damaged":
        data[-1] ^= 1
        with pytest.raises(DigestMismatchError, match=r"variables\.index|variables"):
            model.write_chunk(chunks[0], data)
    elif which == "short":
        with pytest.raises(IntegrityError, match="bytes instead of"):
            model.write_chunk(chunks[0], data[:-1])
    else:
        model.write_chunk(chunks[0], data)
        with pytest.raises(IntegrityError, match="out of order"):
            model.write_chunk(chunks[0], data)
    assert held() == []


def test_missing_chunks_are_refused_by_name_and_everything_is_freed(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(os.urandom(BLOCK_BYTES + 5))
    (tmp_path / "a first file").write_bytes(b"first")
    snapshot = snapshot_of(tmp_path)
    model = RamModel(snapshot.manifest)
    chunk = cut_chunks(snapshot.manifest, BLOCK_BYTES)[0]
    model.write_chunk(chunk, read(snapshot, chunk))
    with pytest.raises(IntegrityError, match=r"saved_model\.pb has 0 bytes"):
        model.finish()
    assert held() == []


def test_empty_files_and_files_of_many_chunks_are_there(tmp_path: Path) -> None:
    import tensorflow as tf

    content = {"0 empty": b"", "a/1 large": os.urandom(3 * BLOCK_BYTES + 7), "a/2 empty": b"", "z": b"z", "zz/e": b""}
    for path, data in content.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    place = in_memory(tmp_path)
    for path, data in content.items():
        with tf.io.gfile.GFile(f"{place.path}/{path}", "rb") as file:
            assert file.read() == data
    place.release()
    place.release()


def test_a_load_that_fails_frees_everything(models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models / "tf2", broken)
    (broken / "saved_model.pb").write_bytes(b"no protocol buffer")
    with pytest.raises(OSError, match="Cannot parse"):
        open_here(in_memory(broken))
    assert held() == []
    (broken / "saved_model.pb").unlink()
    with pytest.raises(NotAModelError):
        open_here(in_memory(broken))
    assert held() == []


def test_a_model_in_text_form_is_refused_with_what_to_use_instead(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").write_text("saved_model_schema_version: 1")
    with pytest.raises(ConfigError, match="read_mode: store"):
        in_memory(tmp_path)


def test_a_mounted_directory_is_opened_in_place(models: Path) -> None:
    assert ask(open_here(InPlaceModel(str(models / "tf2"), snapshot_of(models / "tf2").manifest))) == WORDS


def test_loads_under_different_strategies_and_devices_are_different_models(models: Path) -> None:
    import tensorflow as tf

    snapshot = snapshot_of(models / "tf2")
    loaded = LoadedModels(8, 0)
    key = key_of(snapshot.manifest)
    one, two = tf.distribute.OneDeviceStrategy("/cpu:0"), tf.distribute.MirroredStrategy(["/cpu:0"])

    def get() -> Any:
        return loaded.get(key, lambda: open_model(snapshot, key, PickleHooks(never, never, never)))

    plain = get()
    with one.scope():
        under_one = get()
        assert get() is under_one
    with two.scope():
        under_two = get()
        assert get() is under_two
    with tf.device("/cpu:0"):
        under_device = get()
    assert get() is plain
    assert len({id(model) for model in (plain, under_one, under_two, under_device)}) == 4
    assert type(under_two.scale).__name__ == "MirroredVariable"
    loaded.forget()


def test_a_device_is_part_of_a_key_in_tensorflows_spelling(models: Path) -> None:
    manifest = snapshot_of(models / "tf2").manifest
    assert key_of(manifest, "/cpu:0").device == "/device:CPU:0"
    assert key_of(manifest, "/cpu:0").identity == key_of(manifest, "/device:cpu:0").identity
    assert key_of(manifest, "/cpu:0").identity != key_of(manifest).identity


@pytest.mark.parametrize("device", ["", "worker:0", "/job:worker/task:x", "/job", 3])
def test_what_is_no_device_is_refused_with_an_example(models: Path, device: Any) -> None:
    with pytest.raises(ConfigError, match=r"not a TensorFlow device.*/job:worker/task:0"):
        key_of(snapshot_of(models / "tf2").manifest, device)


def test_an_asset_too_long_to_be_sent_is_refused_by_name() -> None:
    entries = [
        Entry("assets/huge.txt", 1 << 31, Digest("0" * 64), b""),
        Entry("saved_model.pb", 1, Digest("1" * 64), b""),
    ]
    assets = RemoteAssets(RamModel(Manifest.of(entries)), ("/job:worker/replica:0/task:0",))
    with pytest.raises(ConfigError, match=r"assets/huge\.txt.*read_mode: in_place"):
        assets.push()
    assets.release()


def test_what_does_not_end_in_time_is_said_by_its_name() -> None:
    gate = threading.Event()
    with pytest.raises(TransferTimeoutError, match="the worker to answer"):
        call_within(0.05, "the worker to answer", lambda: [None for _ in iter(gate.wait, True)] and None)
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "hubdist-tf-task":
            thread.join(10)
