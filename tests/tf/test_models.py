"""Loading with real TensorFlow in this process, pickles of models, and loaded models after a refresh."""

from __future__ import annotations

import gc
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import hubdist
from hubdist.errors import NotAModelError, NotPinnedError

pytestmark = pytest.mark.tf


def ask(model: Any, words: list[str]) -> list[list[float]]:
    import tensorflow as tf

    answer: list[list[float]] = model(tf.constant(words)).numpy().tolist()
    return answer


EXPECTED = [[2.0, 3.0], [4.0, 6.0], [-2.0, -3.0]]
WORDS = ["one", "two", "unknown"]


def test_a_tf2_model_answers_with_its_vocabulary(models: Path) -> None:
    assert ask(hubdist.load(str(models / "tf2")), WORDS) == EXPECTED


def test_a_tf1_model_answers_by_its_signature(models: Path) -> None:
    import tensorflow as tf

    model = hubdist.load(str(models / "tf1"))
    answer = model.signatures["serving_default"](x=tf.constant([[1.0, 2.0]]))
    assert answer["y"].numpy().tolist() == [[21.0]]
    assert model._is_hub_module_v1 is False


def test_a_second_load_returns_the_same_object_unless_fresh(models: Path) -> None:
    first = hubdist.load(str(models / "tf2"))
    assert hubdist.load(f"{models}/./tf2/") is first
    again = hubdist.load(str(models / "tf2"), fresh=True)
    assert again is not first
    assert hubdist.load(str(models / "tf2")) is again


def test_tags_and_options_are_part_of_what_is_equal(models: Path) -> None:
    import tensorflow as tf

    plain = hubdist.load(str(models / "tf2"))
    tagged = hubdist.load(str(models / "tf2"), tags=["serve"])
    options = tf.saved_model.LoadOptions(experimental_skip_checkpoint=False, allow_partial_checkpoint=True)
    partial = hubdist.load(str(models / "tf2"), options=options)
    assert len({id(plain), id(tagged), id(partial)}) == 3
    assert hubdist.load(str(models / "tf2"), tags="serve") is tagged


def test_wrong_tags_give_tensorflows_own_error(models: Path) -> None:
    with pytest.raises(ValueError, match="tag"):
        hubdist.load(str(models / "tf2"), tags=["no such tag"])


def test_the_loaded_cache_is_bounded(models: Path) -> None:
    hubdist.init(max_loaded_models=1, max_loaded_bytes="1GiB")
    first = weakref.ref(hubdist.load(str(models / "tf2")))
    hubdist.load(str(models / "tf1"))
    assert first() is None


def test_threads_share_one_load(models: Path) -> None:
    loaded: list[Any] = []
    threads = [threading.Thread(target=lambda: loaded.append(hubdist.load(str(models / "tf2")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(loaded) == 4
    assert len({id(model) for model in loaded}) == 1


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_collection_is_as_before_after_a_load(models: Path, was_on: bool) -> None:
    (gc.enable if was_on else gc.disable)()
    try:
        hubdist.load(str(models / "tf2"), fresh=True)
        assert gc.isenabled() is was_on
    finally:
        gc.enable()


def test_other_files_can_be_resolved_but_not_loaded(tmp_path: Path) -> None:
    root = tmp_path / "torch"
    root.mkdir()
    (root / "weights.safetensors").write_bytes(b"weights")
    assert [path.name for path in Path(hubdist.resolve(str(root))).iterdir()] == ["weights.safetensors"]
    with pytest.raises(NotAModelError, match=r"weights\.safetensors"):
        hubdist.load(str(root))


def test_a_hub_module_says_that_it_is_one(models: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "module"
    shutil.copytree(models / "tf1", root)
    (root / "tfhub_module.pb").write_bytes(b"\x08\x03")
    # As for hub.load, the default tags of a hub module are [], which this SavedModel does not have.
    with pytest.raises(RuntimeError, match="tags"):
        hubdist.load(str(root))
    assert hubdist.load(str(root), tags=["serve"])._is_hub_module_v1 is True


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("which", ["tf1", "tf2"])
def test_a_pickle_is_small_and_gives_an_equal_model(models: Path, which: str, dumps: Any) -> None:
    data = dumps(hubdist.load(str(models / which)))
    assert len(data) < 1500
    assert pickle.loads(data).signatures["serving_default"] is not None


def test_a_pickle_loads_in_a_new_process_without_ray(models: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(hubdist.load(str(models / "tf2"))))
    script = f"""
        import pickle, tensorflow as tf
        model = pickle.load(open({str(tmp_path / "model.pkl")!r}, "rb"))
        print(model(tf.constant(["two"])).numpy().tolist())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[[4.0, 6.0]]"


def test_a_pickle_never_gives_other_bytes(models: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "model"
    shutil.copytree(models / "tf2", root)
    data = pickle.dumps(hubdist.load(str(root)))
    shutil.rmtree(root)
    shutil.copytree(models / "tf1", root)
    hubdist.shutdown()
    hubdist.init(store=str(tmp_path / "another-store"))
    arrived = pickle.loads(data)
    for _ in range(2):
        with pytest.raises(NotPinnedError, match="stands for"):
            arrived(["one"])


def test_models_of_keras_2_with_optimizer_state_load(tmp_path: Path) -> None:
    wheel = Path("build/demo/basic_pitch-0.4.0-py2.py3-none-any.whl")
    if not wheel.exists():
        pytest.skip("the demo's wheel is missing: run make demo first")
    model = hubdist.load(f"zip://basic_pitch/saved_models/icassp_2022/nmp::{wheel.resolve()}")
    answer = model.signatures["serving_default"](input_2=np.zeros((1, 43844, 1), np.float32))
    assert answer["note"].shape == (1, 172, 88)
    if "tf_keras" not in sys.modules:
        from tensorflow.python.saved_model import revived_types

        assert "optimizer" not in revived_types.registered_identifiers()
        assert "optimizer" not in revived_types._TYPE_IDENTIFIERS  # else every later save fails


@pytest.mark.parametrize("wrong", [0, None, b"/models/m", ["/models/m"], "", "  "])
@pytest.mark.parametrize("call", [hubdist.load, hubdist.resolve, hubdist.refresh, hubdist.unload, hubdist.plan])
def test_what_is_no_string_is_a_value_error(call: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match="string"):
        call(wrong)


def test_what_is_no_model_is_a_value_error_as_for_hub_load(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    (root / "notes").write_text("text")
    with pytest.raises(ValueError, match=r"contains neither saved_model\.pb nor saved_model\.pbtxt"):
        hubdist.load(str(root))


def test_a_loaded_model_stays_what_it_is(models: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    shutil.copytree(models / "tf2", tmp_path / "model")
    old = hubdist.load(str(tmp_path / "model"))
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(models / "tf1", tmp_path / "model")
    hubdist.refresh(str(tmp_path / "model"))
    assert "serving_default" in hubdist.load(str(tmp_path / "model")).signatures
    assert not hasattr(hubdist.load(str(tmp_path / "model")), "scale")
    assert old(tf.constant(["one"])).numpy().tolist() == [[2.0, 3.0]]
    old.scale.assign([1.0, 1.0])
    assert pickle.loads(pickle.dumps(old)).scale.numpy().tolist() == [1.0, 1.0]


def test_unload_lets_go_of_what_a_handle_stood_for_before(models: Path, tmp_path: Path) -> None:
    hubdist.init(max_loaded_bytes="1GiB")
    handle = str(tmp_path / "model")
    assert hubdist.unload(handle) is False  # nothing is read for it
    shutil.copytree(models / "tf2", handle)
    old = weakref.ref(hubdist.load(handle))
    shutil.rmtree(handle)
    shutil.copytree(models / "tf1", handle)
    hubdist.refresh(handle)
    new = weakref.ref(hubdist.load(handle))
    assert hubdist.unload(f"{handle}/") is True
    gc.collect()
    assert (old(), new()) == (None, None)
