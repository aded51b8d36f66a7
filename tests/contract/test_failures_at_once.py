"""What no retry mends is said within five seconds, with the right error and the mend, and nothing else is printed.

Every cause is tried with every kind of origin that can meet it, against real servers on 127.0.0.1. For each kind, one
process resolves all its handles, so that what a user sees in a terminal can be read from its stderr.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.failing_servers import Servers, all_servers, google_key

AT_ONCE_S = 5.0
ROOT = Path(__file__).parents[2]
HOST = "localhost"
ORIGINS = {"http": None, "gs": "gcsfs", "s3": "s3fs", "hf": "huggingface_hub", "kaggle": "kagglehub", "own": None}
"""Kind of origin -> the package that it needs."""


DIRECTORIES = ("gs", "s3")
"""Origins that nodes read themselves, through the same directories as a shared cache."""


@dataclass(frozen=True)
class Case:
    """A handle that fails.

    Attributes:
        kind: The class of the error.
        words: What the error must say: regular expressions.
        case: What `failing_process` does.
    """

    kind: str
    words: tuple[str, ...]
    case: dict[str, Any] = field(default_factory=dict)


def target(origin: str, base: str, name: str = "denied") -> dict[str, Any]:
    """A case that reads from the server at a URL.

    Args:
        origin: The kind of origin.
        base: Scheme, host and port of the server.
        name: Chooses how the server refuses.
    """
    statuses = {"denied": 403, "refused": 401, "asks": 407}
    return {
        "http": {"handle": f"{base}/status/{statuses.get(name)}/m.tar.gz"},
        "gs": {"handle": f"gs://{name}/m", "conf": {"gs": {"endpoint_url": base}}},
        "s3": {"handle": f"s3://{name}/m", "conf": {"s3": {"endpoint_url": base, "key": "a", "secret": "b"}}},
        "hf": {"handle": f"hf://{name}/m", "hf": base},
        "kaggle": {"handle": "kaggle://owner/model/tensorFlow2/var/1", "kaggle": base},
        "own": {"handle": f"own://{base}/status/{statuses.get(name)}/m"},
    }[origin]


def network(origin: str, at: Servers) -> dict[str, Case]:
    """What can be wrong between this node and any server."""
    to = functools.partial(target, origin)
    ways = {
        "untrusted": Case(
            "OriginError", ("certificate .*is not trusted", "own CA"), to(f"https://{HOST}:{at.stranger}")
        ),
        "expired": Case("OriginError", ("certificate .*has expired", "renew"), to(f"https://{HOST}:{at.expired}")),
        "early": Case("OriginError", ("not valid yet", "[Cc]lock of this node"), to(f"https://{HOST}:{at.early}")),
        "misnamed": Case("OriginError", ("for another name", "Write the name"), to(f"https://{HOST}:{at.misnamed}")),
        "no tls": Case("OriginError", ("does not speak TLS", "http://"), to(f"https://{HOST}:{at.plain}")),
        "no host": Case("OriginError", ("does not resolve", "getent hosts"), to("https://nothing.invalid")),
    }
    proxies = {
        "proxy denies": (at.proxy_denies, "proxy answered 403"),
        "proxy asks": (at.proxy_asks, "proxy answered 407"),
        "proxy is closed": (at.closed, "nothing listens at the proxy|proxy cannot be reached"),
    }
    if origin == "own":  # Python's own client does not tell a proxy from a server
        del proxies["proxy is closed"]
    for name, (port, words) in proxies.items():
        way = to("https://hub.example")
        way["env"] = {"HTTPS_PROXY": f"http://127.0.0.1:{port}"}
        if origin == "gs":  # gcsfs uses proxies only if it is told to
            way["conf"]["gs"] |= {"session_kwargs": {"trust_env": True}, "token": "anon"}
        ways[name] = Case("OriginError", (words, "HTTPS_PROXY"), way)
    return ways


def access(origin: str, at: Servers, folder: Path) -> dict[str, Case]:
    """What can be wrong with credentials."""
    plain = f"http://{HOST}:{at.plain}"
    to = functools.partial(target, origin, plain)
    identity = {
        "gs": "asked anonymously",
        "s3": "asked with the key of fsspec's configuration",
        "own": "asked by the function for own://",
    }
    who = identity.get(origin, "asked anonymously")
    denied = Case("AccessDeniedError", ("credentials", who), to("denied"))
    if origin == "gs":
        login = ("gcloud auth application-default login", "GOOGLE_APPLICATION_CREDENTIALS", "service account")
        account = "asked as service account tests@project.iam.gserviceaccount.com"
        none = ("there are no credentials for it on this node", who, *login)
        keys = {name: google_key(folder, f"{plain}/token/{name}") for name in ("granted", "refused", "clock")}

        def with_key(name: str, bucket: str) -> dict[str, Any]:
            return {**to(bucket), "env": {"GOOGLE_APPLICATION_CREDENTIALS": str(keys[name])}}

        google = {"handle": "gs://private/m", "conf": {"gs": {}}}
        unreachable = ("there are no Google credentials on this node", "cannot be asked without", who, *login)
        deaf = {"gs": {"endpoint_url": f"http://127.0.0.1:{at.deaf}/storage.googleapis.com"}}
        no_host = {"gs": {"endpoint_url": "https://storage.googleapis.com.invalid"}}
        metadata = {"GCE_METADATA_IP": f"127.0.0.1:{at.deaf}"}
        return {
            "no credentials, denied": Case("AccessDeniedError", none, to("denied")),
            "no credentials, refused": Case("AccessDeniedError", none, to("private")),
            "no credentials, no host": Case("AccessDeniedError", unreachable, {**google, "conf": no_host}),
            "no credentials, dropped": Case(
                "AccessDeniedError", unreachable, {**google, "conf": deaf, "env": metadata}
            ),
            "denied": Case("AccessDeniedError", ("may not be read", account, *login), with_key("granted", "denied")),
            "refused": Case(
                "AccessDeniedError", ("credentials .*are refused", account, *login), with_key("granted", "refused")
            ),
            "token refused": Case(
                "AccessDeniedError", ("credentials .*are refused", account, *login), with_key("refused", "m")
            ),
            "clock": Case(
                "AccessDeniedError", ("clock of this node", account, "Set the clock"), with_key("clock", "m")
            ),
        }
    if origin == "s3":
        mend = ("AWS_ACCESS_KEY_ID", "role")
        without = {**to("denied"), "conf": {"s3": {"endpoint_url": plain}}}
        return {
            "no credentials": Case(
                "AccessDeniedError",
                ("there are no credentials", "asked without credentials", *mend, "FSSPEC_S3_ANON"),
                without,
            ),
            "denied": Case("AccessDeniedError", ("may not be read", who, *mend), to("denied")),
            "expired token": Case("AccessDeniedError", ("are refused", "expired", who, *mend), to("expired")),
            "refused": Case("AccessDeniedError", ("are refused", who, *mend), to("refused")),
            "clock": Case("AccessDeniedError", ("clock of this node", who, "Set the clock"), to("clock")),
            "region": Case("HandleError", ("settings of this node", "AWS_DEFAULT_REGION"), to("region")),
        }
    if origin == "hf":
        mend = ("hf auth login", "HF_TOKEN")
        return {
            "private": Case("ModelNotFoundError", ("there is nothing at", *mend), to("private")),
            "gated": Case("AccessDeniedError", ("may not be read", "accept its terms", who, *mend), to("gated")),
        }
    mends = {"http": ("signed URL",), "kaggle": ("KAGGLE_API_TOKEN",), "own": ()}
    ways = {"denied": Case("AccessDeniedError", (*denied.words, *mends[origin]), denied.case)}
    if origin in ("http", "own"):
        ways["refused"] = Case("AccessDeniedError", ("credentials", who), to("refused"))
        ways["proxy"] = Case("OriginError", ("proxy answered 407", "HTTP_PROXY"), to("asks"))
    return ways


NAMES: dict[str, list[str]] = {}
"""Kind of origin -> its causes, for the names of the tests; the ports come when they run."""
for _origin in ORIGINS:
    _ports = Servers(*[0] * 10)
    _google = ["no credentials, denied", "no credentials, refused", "no credentials, no host"]
    _google += ["no credentials, dropped", "denied", "refused", "token refused", "clock"]
    NAMES[_origin] = [*network(_origin, _ports)]
    NAMES[_origin] += _google if _origin == "gs" else [*access(_origin, _ports, Path())]


@dataclass(frozen=True)
class Outcome:
    """What one process did with all cases of an origin.

    Attributes:
        cases: Name -> the case.
        results: Name -> class, text and seconds of the error.
        stderr: What a user sees in the terminal.
    """

    cases: dict[str, Case]
    results: dict[str, dict[str, Any]]
    stderr: str


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Servers, Authority]]:
    with all_servers(tmp_path_factory.mktemp("certificates")) as running:
        yield running


def run(cases: list[dict[str, Any]], folder: Path, authority: Authority) -> tuple[dict[str, dict[str, Any]], str]:
    """The results by name, and stderr, of a process in which no credentials of the user's are seen."""
    file = folder / "cases.json"
    file.write_text(json.dumps(cases), encoding="utf-8")
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    trusted = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"), str(authority.bundle))
    alone = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "AWS_EC2_METADATA_DISABLED": "true"}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.support.failing_process", str(file)],
        cwd=ROOT,
        env={**kept, **trusted, **alone},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {result["name"]: result for result in map(json.loads, done.stdout.splitlines())}, done.stderr


@pytest.fixture(scope="module")
def outcomes(
    servers: tuple[Servers, Authority], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[functools._lru_cache_wrapper[Outcome]]:
    at, authority = servers

    @functools.cache
    def outcome(origin: str) -> Outcome:
        package = ORIGINS[origin]
        if package is not None and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        folder = tmp_path_factory.mktemp(origin)
        cases = {**network(origin, at), **access(origin, at, folder)}
        assert list(cases) == NAMES[origin]
        if origin in DIRECTORIES:
            for name, each in list(cases.items()):
                cases[f"node: {name}"] = replace(each, case={**each.case, "place": "node"})
        results, stderr = run([{**each.case, "name": name} for name, each in cases.items()], folder, authority)
        return Outcome(cases, results, stderr)

    yield outcome


@pytest.mark.parametrize(("origin", "name"), [(origin, name) for origin in ORIGINS for name in NAMES[origin]])
def test_a_cause_that_no_retry_mends_is_said_at_once(
    outcomes: functools._lru_cache_wrapper[Outcome], origin: str, name: str
) -> None:
    outcome = outcomes(origin)
    case, result = outcome.cases[name], outcome.results[name]
    assert result["kind"] == case.kind, result
    assert [words for words in case.words if not re.search(words, result["text"])] == [], result["text"]
    assert result["seconds"] < AT_ONCE_S, result


@pytest.mark.parametrize(("origin", "name"), [(origin, name) for origin in DIRECTORIES for name in NAMES[origin]])
def test_a_node_that_reads_the_directory_itself_hears_it_at_once(
    outcomes: functools._lru_cache_wrapper[Outcome], origin: str, name: str
) -> None:
    outcome = outcomes(origin)
    case, result = outcome.cases[name], outcome.results[f"node: {name}"]
    assert result["kind"] == case.kind, result
    assert re.search(case.words[0], result["text"]), result["text"]
    assert result["seconds"] < AT_ONCE_S, result


@pytest.mark.parametrize("origin", ORIGINS)
def test_nothing_but_the_error_reaches_the_terminal(
    outcomes: functools._lru_cache_wrapper[Outcome], origin: str
) -> None:
    assert outcomes(origin).stderr == ""


RETRIED = {
    "gs, closed": ("gs", "closed", "m", "refused the connection, 2 times"),
    "s3, closed": ("s3", "closed", "m", "refused the connection, 2 times"),
    "hf, closed": ("hf", "closed", "m", "refused the connection, 2 times"),
    "http, closed": ("http", "closed", "denied", "failed 2 times in a row; last failure: .*Connection refused"),
    "gs, busy": ("gs", "plain", "busy", "too many requests, .*2 times"),
    "s3, busy": ("s3", "plain", "busy", "too many requests, .*2 times"),
    "hf, busy": ("hf", "plain", "busy", "too many requests, .*2 times"),
}


@pytest.mark.parametrize("name", RETRIED)
def test_what_may_pass_is_tried_again_and_named(servers: tuple[Servers, Authority], tmp_path: Path, name: str) -> None:
    origin, server, bucket, words = RETRIED[name]
    package = ORIGINS[origin]
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    at, authority = servers
    case = target(origin, f"http://{HOST}:{getattr(at, server)}", bucket)
    results, _ = run([{**case, "name": name, "settings": {"origin_retries": 1}}], tmp_path, authority)
    assert results[name]["kind"] == "OriginError"
    assert re.search(words, results[name]["text"]), results[name]["text"]


@pytest.mark.parametrize("name", ["token refused", "no credentials, dropped", "denied"])
def test_a_shared_cache_that_cannot_be_used_is_said_once_and_at_once(
    servers: tuple[Servers, Authority], tmp_path: Path, name: str
) -> None:
    at, authority = servers
    way = access("gs", at, tmp_path)[name]
    cache = {**way.case, "settings": {"shared_cache": f"{way.case['handle']}/cache"}}
    results, stderr = run([{**cache, "handle": f"held://{part}", "name": part} for part in "ab"], tmp_path, authority)
    for result in results.values():
        assert result["kind"] == "", result
        assert result["seconds"] < AT_ONCE_S, result
    lines = stderr.splitlines()
    assert len(lines) == 2, stderr  # one for each `init`
    assert all(line.startswith("hubdist: the shared cache is not used: gs://") for line in lines)
    assert all(re.search(way.words[0], line) for line in lines), stderr
