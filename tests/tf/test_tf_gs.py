"""TensorFlow's own client of gs://: models that it opens in place, and what it says when it cannot."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from hubdist.errors import AccessDeniedError, ConfigError, HubdistError, ModelNotFoundError, OriginError
from hubdist.loading import check_in_place
from hubdist.loading.open_model import in_place_errors
from tests.support.tf_gs import run_with_gs, why_not

_SCRIPT = """
    import json, pickle, sys
    from pathlib import Path
    import tensorflow as tf
    from hubdist.errors import HubdistError
    from hubdist.model.manifest import EntryDigester, Manifest
    from hubdist.loading import InPlaceModel, PickleHooks, check_in_place, load_key, open_model

    entries = []
    root = Path(sys.argv[1])
    for path in root.rglob("*"):
        if path.is_file():
            digester = EntryDigester(str(path.relative_to(root)))
            digester.update(path.read_bytes())
            entries.append(digester.entry())
    manifest = Manifest.of(entries)
    key = load_key("gs://models/tf2", manifest.digest, None, None)

    def open_at(url):
        check_in_place(url)
        return open_model(InPlaceModel(url, manifest), key, PickleHooks(print, print, print))

    model = open_at("gs://models/tf2")
    answers = {"words": model(tf.constant(["one", "two", "unknown"])).numpy().tolist()}
    for url in ("gs://models/nothing", "gs://no-such-bucket/tf2", "gs://models/damaged"):
        try:
            open_at(url)
        except HubdistError as error:
            answers[url] = [type(error).__name__, str(error)]
    print(json.dumps(answers))
"""


@pytest.mark.root
@pytest.mark.tf
def test_tensorflow_opens_a_model_in_its_bucket_and_errors_are_typed(models: Path, tmp_path: Path) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    damaged = tmp_path / "damaged"
    (damaged / "variables").mkdir(parents=True)
    (damaged / "saved_model.pb").write_bytes((models / "tf2" / "saved_model.pb").read_bytes())
    command = [sys.executable, "-c", textwrap.dedent(_SCRIPT), str(models / "tf2")]
    done = run_with_gs(command, {"models/tf2": models / "tf2", "models/damaged": damaged})
    assert done.returncode == 0, done.stdout + done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert answers.pop("words") == [[2.0, 3.0], [4.0, 6.0], [-2.0, -3.0]]
    assert {url: kind for url, (kind, _) in answers.items()} == dict.fromkeys(answers, "ModelNotFoundError")
    assert len(answers) == 3
    for url, (_, text) in answers.items():
        assert url in text
        assert "read_mode" in text


@pytest.mark.parametrize("path", ["gs://bucket/model", "ram://model", "file:///model", "/mnt/models/one"])
def test_what_tensorflow_opens_itself_passes(path: str) -> None:
    check_in_place(path)


@pytest.mark.parametrize("path", ["s3://bucket/model", "https://example.org/model", "memory://model", "az://a/b"])
def test_other_schemes_are_refused_with_what_to_use_instead(path: str) -> None:
    with pytest.raises(ConfigError, match=r"://.*in place.*store or memory"):
        check_in_place(path)


def test_secrets_in_a_refused_url_are_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        check_in_place("s3://bucket/model?token=secret-word")
    assert "secret-word" not in str(caught.value)


@pytest.mark.tf
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("PermissionDeniedError", AccessDeniedError),
        ("UnauthenticatedError", AccessDeniedError),
        ("NotFoundError", ModelNotFoundError),
        ("UnavailableError", OriginError),
        ("AbortedError", OriginError),
    ],
)
def test_tensorflows_errors_of_reading_become_typed(name: str, kind: type[HubdistError]) -> None:
    import tensorflow as tf

    error = getattr(tf.errors, name)(None, None, "Error executing an HTTP request: HTTP response code ...")
    with pytest.raises(kind, match="gs://bucket/model"), in_place_errors(tf, "gs://bucket/model"):
        raise error


@pytest.mark.tf
def test_errors_that_are_about_the_model_stay_as_they_are() -> None:
    import tensorflow as tf

    missing = tf.errors.NotFoundError(None, None, "Op type not registered 'SentencepieceOp'")
    with pytest.raises(tf.errors.NotFoundError), in_place_errors(tf, "gs://bucket/model"):
        raise missing
