"""Puts functions in the place of two of huggingface_hub's, also where a program has imported them by name already.

Both public functions are decorated: the function that everybody imports checks its arguments and then calls another
one, which it keeps in a cell of its closure. What is in the cell is exchanged here, so the public function stays the
same object. Source: huggingface_hub 2.4.0, `utils/_validators.py`, `validate_hf_hub_args`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import CellType
from typing import Any

_LOG = logging.getLogger(__name__)

Download = Callable[..., Any]
"""One of the two functions, as huggingface_hub has it."""


class ExchangedFunction:
    """The seam that is one function of huggingface_hub.

    Args:
        module: The full name of its module.
        function: Its name, which is that of the answer in `answers` too.
    """

    def __init__(self, module: str, function: str) -> None:
        self.module = module
        self._function = function
        self._cell: CellType | None = None
        self._original: Download | None = None

    def put(self) -> None:
        """Answer for the function, whoever has imported it."""
        public = getattr(sys.modules[self.module], self._function, None)
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

    def take_away(self) -> None:
        """Let the function be what it was."""
        if self._cell is not None:
            self._cell.cell_contents = self._original
            self._cell = None
