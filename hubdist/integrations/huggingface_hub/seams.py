"""Puts functions in the place of two of huggingface_hub's, also where a program has imported them by name already.

Both public functions are decorated: the function that everybody imports checks its arguments and then calls another
one, which it keeps in a cell of its closure. What is in the cell is exchanged here, so the public function stays the
same object. Source: huggingface_hub 2.4.0, `utils/_validators.py`, `validate_hf_hub_args`.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from types import CellType
from typing import Any

from hubdist.integrations.import_watch import ImportWatch

_LOG = logging.getLogger(__name__)

Download = Callable[..., Any]
"""One of the two functions, as huggingface_hub has it."""


class Seam:
    """One function of huggingface_hub that hubdist answers for.

    Args:
        module: The full name of its module.
        function: Its name, which is that of the answer in `answers` too.
    """

    def __init__(self, module: str, function: str) -> None:
        self._module = module
        self._function = function
        self._cell: CellType | None = None
        self._original: Download | None = None
        self._watch = ImportWatch(module, self._exchange, lambda _: None)

    def take(self) -> None:
        """Answer for the function from now on, or from when its module is imported on."""
        if self._watch.is_on:
            return
        self._watch.start()
        if self._module in sys.modules:
            self._exchange()

    def give_back(self) -> None:
        """Let the function be what it was."""
        self._watch.stop()
        if self._cell is not None:
            self._cell.cell_contents = self._original
            self._cell = None

    def _exchange(self) -> None:
        public = getattr(sys.modules[self._module], self._function, None)
        original = getattr(public, "__wrapped__", None)
        cells = [cell for cell in getattr(public, "__closure__", None) or () if cell.cell_contents is original]
        if original is None or len(cells) != 1:
            _LOG.warning(
                "hubdist: this huggingface_hub has another %s than is known; it stays as it is", self._function
            )
            return
        # Only now: a worker that never imports huggingface_hub does not pay for what the answers need.
        from hubdist.integrations.huggingface_hub.answers import ANSWERS

        answer = ANSWERS[self._function]

        def answered(*args: Any, **options: Any) -> Any:
            return answer(original, *args, **options)

        self._cell, self._original = cells[0], original
        self._cell.cell_contents = answered


class Seams:
    """Several seams that are taken and given back together. Safe for several threads.

    Args:
        *seams: The seams.
    """

    def __init__(self, *seams: Seam) -> None:
        self._guard = threading.Lock()
        self._seams = seams

    def take(self) -> None:
        """Take all of them."""
        with self._guard:
            for seam in self._seams:
                seam.take()

    def give_back(self) -> None:
        """Give all of them back."""
        with self._guard:
            for seam in self._seams:
                seam.give_back()


DOWNLOADS = Seams(
    Seam("huggingface_hub._snapshot_download", "snapshot_download"),
    Seam("huggingface_hub.file_download", "hf_hub_download"),
)
"""The two functions of huggingface_hub that download files of a repository."""
