"""One version of a model as a replica serves it, and what users say of it in `user_config`.

A request is answered by the version that it began with, whatever comes meanwhile: whoever answers takes the object once
and asks nobody again.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from hubdist.errors import ConfigError, SignatureError
from hubdist.integrations.open_signatures import OpenSignature, open_signature
from hubdist.integrations.ray_serve.json_rows import rows_of
from hubdist.loading import Values

Answer = dict[str, Any]
"""`outputs`: name -> values, one entry for each row of the request; `version`: the digest of the model."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model a replica serves: the keys of `user_config`.

    Attributes:
        handle: As for `hubdist.load`.
        version: The digest that the model's files must have, `sha256:<hex>`. If the handle stands for other bytes in
            this job, the origin is asked again. None takes what the handle stands for.
        signature: The signature's name; None takes `serving_default`, else `default`, else the only one.
        pad_to: The number of rows that the model gets each time; None passes requests on as they come.
        example: Inputs of a request, name -> list of rows. A model answers it before it gets requests, so that the
            first one does not wait, and a model that cannot answer it is not taken.
    """

    handle: str
    version: str | None = None
    signature: str | None = None
    pad_to: int | None = None
    example: Mapping[str, Any] | None = field(default=None, hash=False)

    @classmethod
    def of(cls, config: Any) -> Self:
        """What a `user_config` says.

        Args:
            config: A handle alone, or a mapping of the keys.

        Raises:
            ConfigError: A key is unknown, or the handle is missing.
        """
        keys = {"handle": config} if isinstance(config, str) else config
        try:
            inspect.signature(cls).bind(**keys)
        except TypeError as error:
            raise ConfigError(
                f"the choice of a model is wrong: {error}",
                advice=f"Its keys are {', '.join(cls.__dataclass_fields__)}; `handle` must be there.",
            ) from None
        return cls(**keys)


class ServedModel:
    """A signature of one version of a model, ready for requests. Safe for several threads.

    Args:
        choice: Which model.

    Attributes:
        opened: The signature, with the model's handle and digest.

    Raises:
        HubdistError: The model cannot be loaded, or it cannot answer the example.
    """

    def __init__(self, choice: ModelChoice) -> None:
        self.opened: OpenSignature = open_signature(
            choice.handle,
            choice.signature,
            digest=choice.version,
            pad_to=choice.pad_to,
            asks_origin=True,
        )
        self._outputs = list(self.opened.call.outputs)
        if choice.example is not None:
            (answer,) = self.answer([choice.example])
            if isinstance(answer, SignatureError):
                raise answer

    def answer(self, requests: Sequence[Mapping[str, Any]]) -> list[Answer | SignatureError]:
        """Answer several requests by as few calls of the model as their shapes allow.

        Args:
            requests: Of each request the inputs: name of an argument -> array, or list of rows.

        Returns:
            For each request its answer, or what is wrong with it. A wrong request does not fail the others.
        """
        answers: dict[int, Answer | SignatureError] = {}
        groups: dict[Any, dict[int, dict[str, Values]]] = {}
        for number, inputs in enumerate(requests):
            try:
                fitted = self._fit(inputs)
            except SignatureError as error:
                answers[number] = error
            else:
                groups.setdefault(_shapes(fitted), {})[number] = fitted
        for group in groups.values():
            answers |= self._answer_group(group)
        return [answers[number] for number in range(len(requests))]

    def _fit(self, inputs: Mapping[str, Any]) -> dict[str, Values]:
        self.opened.call.check(inputs, ())
        sources = {name: f"input {name!r}" for name in inputs}
        return self.opened.call.fit({name: rows_of(inputs[name], sources[name]) for name in inputs}, sources)

    def _answer_group(self, group: Mapping[int, dict[str, Values]]) -> dict[int, Answer | SignatureError]:
        """Answer requests whose rows have the same shapes. If the model refuses them, each one alone."""
        call = self.opened.call
        joined = {name: _joined([fitted[name] for fitted in group.values()]) for name in call.arguments}
        try:
            found = call.run(joined, self._outputs)
        except SignatureError as error:
            if len(group) == 1:
                return dict.fromkeys(group, error)
            alone = [self._answer_group({number: fitted}) for number, fitted in group.items()]
            return {number: answer for each in alone for number, answer in each.items()}
        answers: dict[int, Answer | SignatureError] = {}
        begin = 0
        for number, fitted in group.items():
            end = begin + len(next(iter(fitted.values())))
            outputs = {name: values[begin:end] for name, values in found.items()}
            answers[number] = {"outputs": outputs, "version": self.opened.digest}
            begin = end
        return answers


def _joined(parts: list[Values]) -> Values:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _shapes(fitted: Mapping[str, Values]) -> Any:
    return tuple((name, values.shape[1:]) for name, values in fitted.items())
