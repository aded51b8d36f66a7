"""Whatever somebody may print of an error, so that tests can look for what must not be there."""

from __future__ import annotations

import traceback
from collections.abc import Iterator


def texts_of(error: BaseException) -> Iterator[str]:
    """The texts of an error and of all that it came from, whether a traceback shows that or not."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield from (str(current), repr(current), repr(current.args), repr(vars(current)))
        queue += [current.__cause__, current.__context__]
    yield "".join(traceback.format_exception(error))
