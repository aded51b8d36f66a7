"""A headless Chromium, driven over the pipe of its DevTools protocol: opens a page, looks at it, and takes pictures.

with Chromium() as browser:
    browser.open(path, dark=True, width=390)
    browser.evaluate("document.title")
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CALL_S = 60.0
_EXEC = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 100) for end in sys.argv[1:3]]
for number, end in enumerate(pipes, 3):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and writes answers to 4."""


def find_chromium() -> str | None:
    """The path of a Chromium; None if this machine has none."""
    return next((found for name in NAMES if (found := shutil.which(name)) is not None), None)


class Chromium:
    """One tab of a headless browser without a network; ended when the `with` block is left.

    Attributes:
        complaints: What the console and the network have complained about since the last `open`.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        out_of, self._to = os.pipe()
        self._from, into = os.pipe()
        executable = find_chromium()
        assert executable is not None
        command = [
            sys.executable, "-c", _EXEC, str(out_of), str(into), executable, "--headless=new", "--no-sandbox",
            "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run",
            "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self._profile}",
            "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, pass_fds=(out_of, into), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(out_of)
        os.close(into)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        targets = self._call("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            os.close(self._to)  # which ends it
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, path: Path, *, dark: bool = False, width: int = 1200, media: str = "screen") -> None:
        """Show a page, and wait until it is drawn.

        Args:
            path: An HTML file.
            dark: The user prefers dark colours.
            width: Of the window, in pixels.
            media: `screen` or `print`.
        """
        self.complaints.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        self._events.clear()
        self._call("Page.navigate", url=path.as_uri())
        self._wait_for("Page.loadEventFired")
        self.evaluate("document.fonts.ready.then(() => true)")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise, what it becomes."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path, end: str | None = None) -> None:
        """Save a picture of the page as PNG.

        Args:
            path: The file to write.
            end: CSS selector of the element that the picture ends above; None for the whole page.
        """
        clip = {}
        if end is not None:
            place = self.evaluate(
                f"({{y: document.querySelector({end!r}).getBoundingClientRect().top, x: innerWidth}})"
            )
            clip = {"clip": {"x": 0, "y": 0, "width": place["x"], "height": place["y"], "scale": 1}}
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, **clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _CALL_S
        while True:
            found = self._read(deadline)
            if found.get("id") == self._number:
                assert "error" not in found, f"{method}: {found['error']}"
                result: dict[str, Any] = found["result"]
                return result

    def _wait_for(self, event: str) -> None:
        deadline = time.monotonic() + _CALL_S
        while not any(each.get("method") == event for each in self._events):
            self._read(deadline)

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium gives no answer"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        if "method" in found:
            self._note(found)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        values = event.get("params", {})
        if event["method"] == "Log.entryAdded":
            self.complaints.append(str(values["entry"]["text"]))
        elif event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(str(values["exceptionDetails"]["text"]))
        elif event["method"] == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.complaints.append(str(values["args"]))
        elif event["method"] == "Network.loadingFailed":
            self.complaints.append(f"not loaded: {values['errorText']}")
        elif event["method"] == "Network.requestWillBeSent":
            url = values["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.complaints.append(f"asked for {url}")
