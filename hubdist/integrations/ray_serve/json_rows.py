"""The values of requests and answers as JSON has them. Bytes that are no UTF-8 are `{"b64": "..."}`, both ways.

Source: TensorFlow Serving's REST interface, column format: `{"inputs": {"<argument>": [row, ...]}}`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from hubdist.errors import SignatureError
from hubdist.loading import Values


def inputs_of(body: Any) -> dict[str, Values]:
    """The values of a request's body.

    Args:
        body: What the JSON of the body says.

    Raises:
        SignatureError: The body has no inputs, or one of them has rows of different shapes.
    """
    inputs = body.get("inputs") if isinstance(body, Mapping) else None
    if not isinstance(inputs, Mapping):
        raise SignatureError(
            "the request has no inputs", advice='Send {"inputs": {"<argument>": [<row>, ...]}} as application/json.'
        )
    return {str(name): rows_of(values, f"input {name!r}") for name, values in inputs.items()}


def rows_of(values: Any, source: str) -> Values:
    """Rows that are lists, or an array, as an array.

    Args:
        values: A list with an entry for each row, or an array.
        source: What messages call the values, such as `input 'text'`.

    Raises:
        SignatureError: It is not a list, or its rows have different shapes.
    """
    if isinstance(values, np.ndarray):
        return values
    if not isinstance(values, list):
        raise SignatureError(f"{source} is not a list with an entry for each row", advice="Send a list, also for one.")
    plain = _from_json(values, source)
    try:
        made = np.array(plain)
    except ValueError:
        raise SignatureError(f"{source} has rows of different shapes", advice="Pad the rows to one shape.") from None
    return made if made.dtype.kind not in "SU" else np.array(plain, dtype=object)


def to_json(values: Values) -> Any:
    """Rows as lists that JSON can hold."""
    return _text(values.tolist()) if values.dtype == object else values.tolist()


def _from_json(value: Any, source: str) -> Any:
    if isinstance(value, list):
        return [_from_json(each, source) for each in value]
    if isinstance(value, Mapping):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise SignatureError(f"{source} has an entry that is no base64", advice='Send {"b64": "..."}.') from None
    return value


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(each) for each in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
