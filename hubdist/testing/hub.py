"""A hub on 127.0.0.1 that speaks TensorFlow Hub's protocol, counts its requests, and fails on demand.

For tests of code that uses hubdist. It is a real HTTP server, so other processes can read from it too:

    from hubdist.testing.hub import LoopbackHub, Reset

    def test_my_pipeline_survives_a_reset(tmp_path):
        with LoopbackHub() as hub:
            handle = hub.add_model("acme/mnist/1", saved_model_dir)
            hub.fail_next(handle, Reset(after_bytes=100))
            my_pipeline(handle)
            assert hub.reads(handle) == 1

Nothing sleeps to make a race likely: `hold` stops an answer in its middle until the test lets it go on.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

from hubdist.testing.hub_answers import (
    Answer,
    ChangedEtag,
    Fault,
    HtmlPage,
    HubFile,
    IgnoreRange,
    Reset,
    ShortBody,
    Stall,
    Status,
    WrongBytes,
    fault_answer,
    file_answer,
    html_page,
    pack_model,
    text_answer,
    validators,
)
from hubdist.testing.hub_server import Gate, HubRequest, HubServer

__all__ = [
    "ChangedEtag",
    "Fault",
    "Gate",
    "HtmlPage",
    "HubRequest",
    "IgnoreRange",
    "LoopbackHub",
    "Reset",
    "ShortBody",
    "Stall",
    "Status",
    "WrongBytes",
]


@dataclass(frozen=True, slots=True)
class _Model:
    """How a model's handle is answered when it does not answer with the archive itself."""

    storage_path: str | None
    uncompressed_location: str | None


class LoopbackHub:
    """A hub that serves from when it is made until it is closed. Any thread may call any method.

    Use it in a `with` block: leaving the block ends held and stalled answers, closes all connections and joins all
    threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, HubFile] = {}
        self._models: dict[str, _Model] = {}
        self._redirects: dict[str, tuple[int, str]] = {}
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._gates: dict[str, Gate] = {}
        self._server = HubServer(self._answer)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at the end."""
        return self._server.url

    def add_model(
        self,
        handle_path: str,
        files: Mapping[str, bytes] | Path,
        *,
        redirect_to_storage: bool = False,
        uncompressed_location: str | None = None,
    ) -> str:
        """Serve a model as tfhub.dev does; adding a path again replaces the model.

        `?tf-hub-format=compressed` is answered with a tar.gz, `?tf-hub-format=uncompressed` with status 303 and the
        location as the body, and the bare handle with a web page.

        Args:
            handle_path: Publisher, model and version, such as `google/nnlm-en-dim50/2`.
            files: Path in the model -> content, or the model's directory.
            redirect_to_storage: True answers with a redirect to `/storage/<handle_path>.tar.gz`, where the archive
                is. Faults and gates for that path are separate from those for the handle.
            uncompressed_location: A location such as `gs://bucket/nnlm`; None answers with status 404.

        Returns:
            The handle: its URL.
        """
        path = "/" + handle_path.strip("/")
        data = pack_model(files)
        archive = HubFile(data, "application/x-tar", validators(data), counted_as=path)
        storage_path = f"/storage{path}.tar.gz" if redirect_to_storage else None
        with self._lock:
            self._models[path] = _Model(storage_path, uncompressed_location)
            self._files[storage_path or path] = archive
        return self.url + path

    def add_file(
        self,
        path: str,
        data: bytes,
        content_type: str = "application/octet-stream",
        *,
        headers: Mapping[str, str] | None = None,
        validator: Literal["etag", "last-modified", "both", "none"] = "both",
        chunked: bool = False,
    ) -> str:
        """Serve bytes, such as an archive of your own; adding a path again replaces them.

        Args:
            path: The path to serve, without a query.
            data: The bytes of the file.
            content_type: The Content-Type header.
            headers: Further headers; they win over the hub's own.
            validator: The headers by which a client can tell that the file is still the same.
            chunked: True sends the file in chunks, without a Content-Length.

        Returns:
            The URL of the file.
        """
        path = "/" + path.strip("/")
        sent = validators(data)
        if validator in ("last-modified", "none"):
            del sent["ETag"]
        if validator in ("etag", "none"):
            del sent["Last-Modified"]
        file = HubFile(data, content_type, {**sent, **(headers or {})}, chunked, counted_as=path)
        with self._lock:
            self._files[path] = file
        return self.url + path

    def add_redirect(self, path: str, location: str, status: int = 302) -> str:
        """Redirect every request for a path; adding a path again replaces the redirect.

        Args:
            path: The path to redirect, without a query.
            location: The URL or path to redirect to.
            status: The HTTP status of the answer.

        Returns:
            The URL of the path.
        """
        path = "/" + path.strip("/")
        with self._lock:
            self._redirects[path] = (status, location)
        return self.url + path

    def fail_next(self, path: str, *faults: Fault) -> None:
        """Produce faults in the next answers for a path, one fault for each request, in this order.

        Args:
            path: A handle, a URL of this hub or a path; a query in it is ignored.
            *faults: The faults. One whose `after_bytes` is behind the end of the body does nothing.
        """
        with self._lock:
            self._faults[_plain_path(path)].extend(faults)

    def hold(self, path: str) -> Gate:
        """Stop the answers for a path in the middle of their body, or at a fault's `after_bytes`.

        Args:
            path: A handle, a URL of this hub or a path; a query in it is ignored.

        Returns:
            The gate. `gate.wait_reached(timeout_s)` waits until an answer has stopped at it; `gate.set()` lets this
            answer and all later ones pass.
        """
        gate = self._server.make_gate()
        with self._lock:
            self._gates[_plain_path(path)] = gate
        return gate

    @property
    def requests(self) -> list[HubRequest]:
        """All requests so far, in the order in which their answers began."""
        return self._server.requests()

    def reads(self, handle: str) -> int:
        """The number of whole downloads of a handle or file that began.

        A whole download is a GET without a Range header, or with a range from byte 0, that was answered with bytes of
        the file (status 200 or 206). Resumed downloads, redirects, web pages and errors do not count. The archive
        behind a redirect counts for its handle.
        """
        path = _plain_path(handle)
        return sum(request.read_of == path for request in self.requests)

    def close(self) -> None:
        """End every answer, close every connection and join every thread; a second call does nothing."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, target: str, headers: Mapping[str, str]) -> tuple[Answer, Fault | None, Gate | None]:
        path = _plain_path(target)
        with self._lock:
            faults = self._faults.get(path)
            fault = faults.popleft() if faults else None
            gate = self._gates.get(path)
            file, model, redirect = self._files.get(path), self._models.get(path), self._redirects.get(path)
        answer = fault_answer(fault)
        if answer is None and redirect is not None:
            answer = text_answer(redirect[0], "", {"Location": redirect[1]})
        if answer is None and model is not None:
            answer = self._model_answer(path, model, urlsplit(target).query)
        if answer is None and file is not None:
            answer = file_answer(file, headers.get("Range"), headers.get("If-Range"), fault)
        return answer or text_answer(404, "not found\n"), fault, gate

    def _model_answer(self, path: str, model: _Model, query: str) -> Answer | None:
        """The answer for a handle; None if the answer is the archive itself."""
        wanted = parse_qs(query).get("tf-hub-format", [""])[0]
        if wanted == "uncompressed":
            location = model.uncompressed_location
            return text_answer(404, "no uncompressed form\n") if location is None else text_answer(303, location)
        if wanted != "compressed":
            return html_page(path)
        if model.storage_path is not None:
            return text_answer(302, "", {"Location": model.storage_path})
        return None


def _plain_path(path_or_url: str) -> str:
    return "/" + urlsplit(path_or_url).path.strip("/")
