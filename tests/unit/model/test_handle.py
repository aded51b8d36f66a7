"""Handles: equal ones are one, unknown ones are refused, secrets stay inside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hubdist.errors import HandleError, ModelNotFoundError
from hubdist.model.handle import TREE_SCHEMES, Handle, Kind, parse_handle
from hubdist.model.hints import suggesting, suggestion
from hubdist.model.inner_handles import inner_handle
from hubdist.model.paths import ARCHIVE_SUFFIXES, MODEL_FILE_SUFFIXES, OTHER_ARCHIVE_SUFFIXES, Ending, ending_of
from tests.support.examples import examples

HERE = Path("/jobs/mine")
SECRET = "hunter2"


def parse(text: str | Path) -> Handle:
    return parse_handle(text, base_dir=HERE, custom_schemes=("registry",))


# Equal handles

_USE = "https://tfhub.dev/google/universal-sentence-encoder/2"
_KAGGLE = "kaggle://google/mnist/tensorFlow2/small/3"
_KAGGLE_NEWEST = "kaggle://google/mnist/tensorFlow2/small"
_KAGGLE_PAGE = "https://www.kaggle.com/models/google/mnist/frameworks/tensorFlow2/variations/small"


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        (f"{_USE}/", _USE),
        (f"{_USE}//", _USE),
        (f" {_USE} ", _USE),
        (f"{_USE}?", _USE),
        (f"{_USE}?tf-hub-format=compressed", _USE),
        (f"{_USE}/?tf-hub-format=uncompressed", _USE),
        (f"{_USE}#readme", _USE),
        ("HTTPS://TFHub.DEV/google/universal-sentence-encoder/2", _USE),
        ("https://tfhub.dev:443/google/universal-sentence-encoder/2", _USE),
        ("https://tfhub.dev./google/universal-sentence-encoder/2", _USE),
        ("http://hub.local:80/m/1", "http://hub.local/m/1"),
        ("https://hub.local:8443/m/1", "https://hub.local:8443/m/1"),
        ("https://h/m/1?a=b&tf-hub-format=compressed", "https://h/m/1?a=b"),
        ("https://h/m/1?tf-hub-format=compressed&a=b", "https://h/m/1?a=b"),
        ("https://[2001:DB8::1]:443/m/1", "https://[2001:db8::1]/m/1"),
        ("https://[::1]:8080/m/1", "https://[::1]:8080/m/1"),
        ("gcs://bucket/dir/", "gs://bucket/dir"),
        ("GS://bucket/dir", "gs://bucket/dir"),
        ("s3a://bucket/dir", "s3://bucket/dir"),
        ("https://www.kaggle.com/models/google/mnist/tensorFlow2/small/3", _KAGGLE),
        ("https://kaggle.com/models/google/mnist/tensorFlow2/small/3/", _KAGGLE),
        ("https://www.kaggle.com/models/google/mnist/frameworks/tensorFlow2/variations/small/versions/3", _KAGGLE),
        ("https://www.kaggle.com/models/google/mnist/tensorFlow2/small/3?tfhub-redirect=true", _KAGGLE),
        ("Kaggle://google/mnist/tensorFlow2/small/3/", _KAGGLE),
        ("https://www.kaggle.com/models/google/mnist/tensorFlow2/small/3/code", _KAGGLE),
        ("https://www.kaggle.com/models/google/mnist/tensorFlow2/small/versions/3", _KAGGLE),
        ("https://www.kaggle.com/models/google/mnist/tensorFlow2/small/03", _KAGGLE),
        ("http://www.kaggle.com/models/google/mnist/Frameworks/tensorFlow2/Variations/small/Versions/3/", _KAGGLE),
        (f"{_KAGGLE_PAGE}/versions/3?select=assets#data", _KAGGLE),
        (f"{_KAGGLE_PAGE}/versions/3/code?datasetId=1", _KAGGLE),
        (_KAGGLE_PAGE, _KAGGLE_NEWEST),
        (f"{_KAGGLE_PAGE}/", _KAGGLE_NEWEST),
        (f"{_KAGGLE_PAGE}/discussion", _KAGGLE_NEWEST),
        (f"{_KAGGLE_PAGE}/versions", _KAGGLE_NEWEST),
        ("https://www.kaggle.com/models/google/mnist/tensorFlow2/small/code", _KAGGLE_NEWEST),
        ("kaggle://google/mnist/frameworks/tensorFlow2/variations/small", _KAGGLE_NEWEST),
        ("kaggle://google/mnist/tensorFlow2/small#readme", _KAGGLE_NEWEST),
        ("model", "/jobs/mine/model"),
        (Path("model"), "/jobs/mine/model"),
        (Path("/data/model"), "/data/model"),
        ("./a/../model/", "/jobs/mine/a/../model"),
        ("//data/model", "/data/model"),
        ("/data/model/saved_model.pb", "/data/model"),
        (Path("model/saved_model.pb"), "/jobs/mine/model"),
        ("saved_model.pbtxt", "/jobs/mine"),
        ("/data/saved_model.pb/saved_model.pb", "/data"),
        ("file:///data/model/saved_model.pb", "/data/model"),
        ("gs://bucket/model/saved_model.pb", "gs://bucket/model"),
        ("gs://bucket/saved_model.pb", "gs://bucket"),
        ("zip://a/saved_model.pb::model.zip", "zip://a::/jobs/mine/model.zip"),
        ("tar://saved_model.pb::model.tar", "tar://::/jobs/mine/model.tar"),
        ("/data//model/.", "/data/model"),
        ("file:///data/model", "/data/model"),
        ("file://localhost/data/model", "/data/model"),
        ("zip:///a/b/::model.zip", "zip://a/b::/jobs/mine/model.zip"),
        ("zip://a::gcs://bucket/m.zip", "zip://a::gs://bucket/m.zip"),
        ("tar://::https://H:443/m.tgz", "tar://::https://h/m.tgz"),
        ("zip://a::https://[::1]/m.zip", "zip://a::https://[::1]/m.zip"),
        ("REGISTRY://Model/1", "registry://Model/1"),
    ],
)
def test_equal_handles_are_one(written: str | Path, normal: str) -> None:
    assert parse(written).text == normal
    assert parse(written) == parse(normal)
    assert parse(written).key == parse(normal).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://tfhub.dev/google/mnist/1", "https://tfhub.dev/google/mnist/2"),
        ("https://tfhub.dev/google/mnist", "https://tfhub.dev/google/MNIST"),
        ("https://h/m", "http://h/m"),
        ("https://h/m", "https://h:8443/m"),
        ("https://h/m?version=1", "https://h/m?version=2"),
        ("gs://bucket/a", "gs://bucket/A"),
        ("https://one@host.example/m", "https://two@host.example/m"),
        ("memory://a@m/1", "memory://b@m/1"),
        ("https://h/m//a:b@c", "https://h/m//a:d@c"),
        ("zip://a::/m.zip", "zip://b::/m.zip"),
        ("zip://a::/m", "tar://a::/m"),
        ("registry://m?stage=a", "registry://m?stage=b"),
    ],
)
def test_different_handles_have_different_keys(one: str, other: str) -> None:
    assert parse(one) != parse(other)
    assert parse(one).key != parse(other).key


def test_home_directories_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/homes/me")
    assert parse("~/m.tgz").text == "/homes/me/m.tgz"


# Kinds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (_USE, Kind.HUB),
        ("https://h/model.tar.gz", Kind.ARCHIVE),
        ("https://h/Model.TGZ?signature=x", Kind.ARCHIVE),
        ("https://h/model.zip/", Kind.ARCHIVE),
        ("https://h/m?file=model.zip", Kind.HUB),
        ("gs://bucket/model.tar", Kind.ARCHIVE),
        ("gs://bucket/model", Kind.TREE),
        ("s3://bucket/model", Kind.TREE),
        ("hf://google/bert", Kind.HUGGING_FACE),
        ("memory://model", Kind.TREE),
        ("/models/mnist", Kind.LOCAL),
        ("model.zip", Kind.LOCAL),
        ("zip://a::/m.zip", Kind.MEMBER),
        ("tar://a::gs://b/m.tar", Kind.MEMBER),
        ("kaggle://google/mnist/tensorFlow2/small", Kind.KAGGLE),
        ("registry://anything at all", Kind.CUSTOM),
        ("https://www.kaggle.com/datasets/x", Kind.HUB),
        ("https://h/model.onnx", Kind.FILE),
        ("https://h/Model.KERAS?download=true", Kind.FILE),
        ("https://h/vectors.bin.gz", Kind.FILE),
        ("https://h/m?file=model.onnx", Kind.HUB),
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_1.00_224/classification/4", Kind.HUB),
        ("https://hub.local/efficientnet_b0.1", Kind.HUB),
        ("gs://bucket/model.onnx", Kind.TREE),
        ("model.onnx", Kind.LOCAL),
        ("zip://a::https://h/model.keras", Kind.MEMBER),
    ],
)
def test_the_kind_follows_from_the_text(text: str, kind: Kind) -> None:
    assert parse(text).kind is kind


def test_a_member_names_archive_directory_and_format() -> None:
    handle = parse("zip://inner/dir::https://h/m.zip")
    assert (handle.base, handle.inner, handle.format) == (parse("https://h/m.zip"), "inner/dir", "zip")


def test_a_scheme_that_the_user_registered_wins() -> None:
    assert parse_handle("s3://bucket/m", custom_schemes=("s3",)).kind is Kind.CUSTOM


# Refusals


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "non-empty"),
        ("   ", "non-empty"),
        ("ftp://host/model", "unknown scheme 'ftp'"),
        ("ssh://host/model", "unknown scheme"),
        ("github://o:r@/model", "unknown scheme"),
        ("simplecache::gs://bucket/model", "cannot be put in front of '::'"),
        ("filecache::https://h/m.zip", "cannot be put in front of '::'"),
        ("zip://a::simplecache::gs://b/m.zip", "cannot be put in front of '::'"),
        ("zip://a::zip://b::/m.zip", "cannot be put in front of '::'"),
        ("zip://a::kaggle://o/m/f/v", "not an archive"),
        ("zip://a::registry://m", "not an archive"),
        ("zip://a::", "non-empty"),
        ("zip://inner", "names no archive"),
        ("tar://inner", "names no archive"),
        ("zip://../out::/m.zip", "not a plain path"),
        ("zip://a/../b::/m.zip", "not a plain path"),
        ("zip://a//b::/m.zip", "not a plain path"),
        ("gs://bucket/../other", "names no bucket"),
        ("gs://", "names no bucket"),
        ("gs:///", "names no bucket"),
        ("https://", "names no host"),
        ("https:///model", "names no host"),
        ("https://h:port/m", "no valid port"),
        ("https://h:99999/m", "no valid port"),
        ("https://[1/m", "is not a URL"),
        ("kaggle://owner/model", "not a Kaggle model"),
        ("kaggle://owner/../framework/variation", "not a Kaggle model"),
        ("kaggle://owner/model/framework/variation/latest", "not a version number"),
        ("kaggle://owner/model/framework/variation/0", "not a version number"),
        ("kaggle://owner/model/framework/variation/²", "not a version number"),
        ("https://www.kaggle.com/models/google/mnist/code", "not a Kaggle model"),
        ("https://h/model/saved_model.pb", "cannot be listed over HTTP.*such as gs://bucket/directory"),
        ("https://storage.googleapis.com/b/m/saved_model.pb?sig=x", "such as gs://b/m"),
        ("https://huggingface.co/org/m/resolve/main/tf/saved_model.pb", "such as hf://org/m/tf"),
        ("https://h/model.tar.bz2", "format that is not read"),
        ("gs://bucket/model.7z", "format that is not read"),
        ("memory://saved_model.pb", "names no bucket"),
        (os.fsdecode(b"/models/\xff"), "not UTF-8"),
        ("https://www.kaggle.com/models/google/mnist", "not a Kaggle model"),
        ("https://h/m\n", None),
        ("https://h/m\x00", "control character"),
        ("gs://b/\x1b[31m", "control character"),
    ],
)
def test_what_is_no_handle_is_refused(text: str, says: str | None) -> None:
    if says is None:  # white space around a handle is harmless
        assert parse(text).text == text.strip()
        return
    with pytest.raises(HandleError, match=says):
        parse(text)


@pytest.mark.parametrize("value", [None, 5, b"https://h/m"])
def test_a_handle_is_a_string_or_a_path(value: object) -> None:
    with pytest.raises(HandleError, match="string or a path"):
        parse_handle(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["model", "./model", "../model.zip", "zip://a::model.zip"])
def test_a_relative_path_is_refused_outside_the_driver(text: str) -> None:
    with pytest.raises(HandleError, match="is relative"):
        parse_handle(text)


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(HandleError) as caught:
        parse("ftp://host/model")
    assert {"https", "gs", "kaggle", "registry", *TREE_SCHEMES} <= set(
        str(caught.value).replace(",", " ").replace(".", " ").split()
    )


# Secrets

_WITH_SECRETS = [
    f"https://me:{SECRET}@h/m/1",
    f"https://{SECRET}@h/m/1",
    f"https://h/m/1?token={SECRET}",
    f"https://h/m.zip?X-Goog-Signature={SECRET}&X-Goog-Expires=9",
    f"https://h/m.zip?{SECRET}",
    f"zip://a::https://me:{SECRET}@h/m.zip",
    f"zip://a::https://h/m.zip?sig={SECRET}",
    f"registry://me:{SECRET}@h/m",
    f"registry://m?key={SECRET}",
    f"https://h/m/1#{SECRET}",
]


@pytest.mark.parametrize("text", _WITH_SECRETS)
def test_no_secret_is_public(text: str) -> None:
    assert SECRET not in parse(text).redacted


@pytest.mark.parametrize(
    "text",
    [
        f"ftp://me:{SECRET}@h/m",
        f"https:/me:{SECRET}@h/m",
        f"me:{SECRET}@h/m?token={SECRET}",
        f"me:{SECRET}@h://m",
        f"https://me:{SECRET}@h:port/m",
        f"https://me:{SECRET}@/m",
        f"https://me:{SECRET}/x@h/m",
        f"kaggle://o/m?token={SECRET}",
        f"kaggle://o/m/f/v/x?token={SECRET}",
        f"zip://a?token={SECRET}",
        f"https://me:{SECRET}@h/m::gs://b/c",
        f"zip://a::https://me:{SECRET}@h/m\x00",
        f"https://me:{SECRET}@[::1/m",
    ],
)
def test_no_secret_is_in_an_error(text: str) -> None:
    with pytest.raises(HandleError) as caught:
        parse_handle(text)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    "text",
    ["https://me:{}@h/m/1", "https://me:{}@h:8443/m.zip?a=b", "zip://a::https://me:{}@h/m.zip", "registry://me:{}@h/m"],
)
def test_the_key_does_not_depend_on_the_password(text: str) -> None:
    assert parse(text.format("one")).key == parse(text.format("t:w@o")).key


@pytest.mark.parametrize(
    "query",
    [
        "X-Goog-Signature=a%2Fb+c%20d%3D%3d&X-Goog-Date=2026",
        "a=1&&b=&c",
        "sig=%e4%BD%A0",
        "tf-hub=1;x=2",
    ],
)
def test_a_signed_query_is_kept_byte_for_byte(query: str) -> None:
    assert parse(f"https://h/m.zip?{query}").text == f"https://h/m.zip?{query}"


def test_taking_out_the_format_keeps_the_rest_of_a_query_byte_for_byte() -> None:
    handle = parse("https://h/m.zip?sig=a%2Fb+c%20d&tf-hub-format=compressed&e=%7E&f")
    assert handle.text == "https://h/m.zip?sig=a%2Fb+c%20d&e=%7E&f"


def test_userinfo_is_kept_for_the_origin() -> None:
    assert parse("https://Me:P%40ss@HOST/m").text == "https://Me:P%40ss@host/m"


# Any text

_WORDS = st.text(st.sampled_from("abZ09.-_~%é +"), min_size=1, max_size=8) | st.sampled_from(
    ["saved_model.pb", "m.onnx"]
)
_HOSTS = st.from_regex(
    r"[A-Za-z][A-Za-z0-9-]{0,8}(\.[a-z]{1,4}){0,2}\.?(:[0-9]{1,4})?", fullmatch=True
) | st.sampled_from(["[::1]", "[2001:db8::2]:8443", "10.0.0.1"])
_PATHS = st.lists(_WORDS, max_size=4).map("/".join)
_QUERIES = st.sampled_from(["", "?", "?a=b", "?a=%2F+x&tf-hub-format=compressed", "?tf-hub-format=x", "?&&", "?a"])
_URLS = st.builds(
    "{}://{}{}/{}{}{}".format,
    st.sampled_from(["http", "https", "HTTPS"]),
    st.sampled_from(["", "me@", "me:pw@", "me:p:w@"]),
    _HOSTS,
    _PATHS,
    st.sampled_from(["", "/", "/m.zip", "/M.TGZ"]),
    _QUERIES,
)
_TREES = st.builds("{}://{}/{}".format, st.sampled_from(sorted(TREE_SCHEMES)), _WORDS, _PATHS)
_LOCALS = st.builds("{}{}".format, st.sampled_from(["", "/", "./", "../", "file:///"]), _PATHS.filter(str.strip))
_MEMBERS = st.builds("{}://{}::{}".format, st.sampled_from(["zip", "tar"]), _PATHS, _URLS | _TREES | _LOCALS)


@given(_URLS | _TREES | _LOCALS | _MEMBERS | st.text(max_size=30))
@settings(max_examples=examples(600), deadline=None)
def test_a_normal_handle_parses_to_itself_and_any_text_to_a_handle_or_an_error(text: str) -> None:
    try:
        handle = parse(text)
    except HandleError:
        return
    assume(handle.text == handle.text.strip())  # a name that ends in a blank needs the slash behind it
    again = parse(handle.text)
    assert again == handle
    assert again.key == handle.key
    assert parse_handle(handle.text, custom_schemes=("registry",)) == handle


# Labels


@pytest.mark.parametrize("text", _WITH_SECRETS)
def test_no_secret_is_in_a_label(text: str) -> None:
    assert SECRET not in parse(text).label


@pytest.mark.parametrize("text", ["https://tfhub.dev/google/mnist/1", "gs://bucket/m", "/m.zip", "zip://a::/m.zip"])
def test_a_handle_that_hides_nothing_is_its_own_label(text: str) -> None:
    assert parse(text).label == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h/m?version=1", "https://h/m?version=2"),
        ("https://one@host.example/m", "https://two@host.example/m"),
        ("zip://a::https://h/m.zip?v=1", "zip://a::https://h/m.zip?v=2"),
    ],
)
def test_labels_tell_apart_what_is_equal_in_public(one: str, other: str) -> None:
    assert parse(one).redacted == parse(other).redacted
    assert parse(one).label != parse(other).label


def test_a_new_password_keeps_the_label() -> None:
    assert parse("https://me:one@h/m").label == parse("https://me:two@h/m").label


# Endings

_NAMES = st.text(st.sampled_from("abZ09.-_%é /"), max_size=12)
_ENDINGS = (
    *((suffix, Ending.ARCHIVE) for suffix in ARCHIVE_SUFFIXES),
    *((suffix, Ending.OTHER_ARCHIVE) for suffix in OTHER_ARCHIVE_SUFFIXES),
    *((suffix, Ending.MODEL_FILE) for suffix in MODEL_FILE_SUFFIXES),
)


@given(_NAMES, st.sampled_from(_ENDINGS), st.booleans(), st.sampled_from(["", "/", "//"]))
def test_an_ending_decides_whatever_stands_before_it(
    name: str, ending: tuple[str, Ending], upper: bool, slashes: str
) -> None:
    suffix, expected = ending
    if name.lower().endswith(".tar") and f".tar{suffix}" in (*ARCHIVE_SUFFIXES, *OTHER_ARCHIVE_SUFFIXES):
        name += "x"
    if expected is Ending.MODEL_FILE and f"{name}{suffix}".rpartition("/")[2].lower() == "saved_model.pb":
        expected = Ending.SAVED_MODEL
    assert ending_of(f"{name}{suffix.upper() if upper else suffix}{slashes}") is expected


@given(_NAMES, st.from_regex(r"[A-Za-z_-]{1,8}[0-9.]*[0-9]", fullmatch=True))
def test_a_name_that_ends_in_a_version_is_of_no_file(folder: str, name: str) -> None:
    assert ending_of(f"{folder}/{name}") is Ending.OTHER


@given(st.lists(_WORDS, min_size=1, max_size=3).map("/".join))
def test_the_file_of_a_saved_model_stands_for_its_directory(folder: str) -> None:
    assume(".." not in folder.split("/") and folder == folder.strip())
    for whole in (f"/{folder}", f"gs://{folder}", f"file:///{folder}"):
        assume(ending_of(whole) is Ending.OTHER)
        assert parse(f"{whole}/saved_model.pb") == parse(whole)


# What may have been meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("google/nnlm/tensorFlow2/en-dim50", "kaggle://google/nnlm/tensorFlow2/en-dim50"),
        ("google/nnlm/tensorFlow2/en-dim50/1/", "kaggle://google/nnlm/tensorFlow2/en-dim50/1"),
        ("google/bert", "hf://google/bert"),
        ("google/bert/onnx/model.onnx", "hf://google/bert/onnx/model.onnx"),
        ("google/nnlm-en-dim50/2", "https://tfhub.dev/google/nnlm-en-dim50/2"),
        ("tfhub.dev/google/nnlm-en-dim50/2", "https://tfhub.dev/google/nnlm-en-dim50/2"),
        ("www.kaggle.com/models/google/nnlm", "https://www.kaggle.com/models/google/nnlm"),
        ("gs:/bucket/model", "gs://bucket/model"),
        (str(Path("https://h/m.zip")), "https://h/m.zip"),
        ("/google/bert", None),
        ("./google/bert", None),
        ("~/bert", None),
        ("model", None),
        ("models/net.onnx", None),
        ("models/net.zip", None),
        ("a/b/c/d/e", None),
        ("", None),
    ],
)
def test_what_a_relative_path_may_have_meant(written: str, meant: str | None) -> None:
    assert suggestion(written) == meant


@given(st.text(max_size=20) | _LOCALS)
def test_a_suggestion_is_another_handle_or_none(text: str) -> None:
    meant = suggestion(text)
    assert meant is None or "://" in meant


def test_outside_the_driver_the_error_for_a_relative_path_says_what_may_have_been_meant() -> None:
    with pytest.raises(HandleError, match="write kaggle://google/nnlm/tensorFlow2/en-dim50"):
        parse_handle("google/nnlm/tensorFlow2/en-dim50")


def test_only_the_handle_that_failed_is_explained() -> None:
    with pytest.raises(ModelNotFoundError) as caught, suggesting(["google/bert", Path("a/b"), "/x"]):
        raise ModelNotFoundError("nothing", handle="/jobs/a/b", advice="Look.")
    assert caught.value.advice == "Look. If it is not meant as a path, write hf://a/b."


@pytest.mark.parametrize(
    ("handle", "inner"),
    [
        ("/models/m", "/models/m/2"),
        ("gs://bucket/m", "gs://bucket/m/2"),
        ("/models/m.zip", "zip://2::/models/m.zip"),
        ("https://h/m.tar.gz?v=1", "tar://2::https://h/m.tar.gz?v=1"),
        ("zip://::/m.zip", "zip://2::/m.zip"),
        ("tar://a::/m.tar", "tar://a/2::/m.tar"),
        ("kaggle://o/m/f/v", None),
        ("https://tfhub.dev/google/m/1", None),
    ],
)
def test_the_handle_of_a_directory_inside(handle: str, inner: str | None) -> None:
    assert inner_handle(handle, "2") == inner
    if inner is not None:
        assert parse(inner).text == inner
