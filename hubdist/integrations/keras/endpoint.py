"""What a layer calls of a loaded model, the object or a signature, and which of its outputs the layer returns."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hubdist.integrations.keras.shapes import map_shapes, set_shapes
from hubdist.loading import import_tensorflow


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user chooses of a model; the words are those of `hub.KerasLayer`.

    Attributes:
        arguments: Further keyword arguments of each call.
        signature: The name of a signature; None calls the object.
        signature_outputs_as_dict: True returns all outputs of the signature.
        output_key: The one output to return; None returns what the model returns.
        output_shape: The shapes of what is returned, without the batch; None leaves them to TensorFlow.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    signature: str | None = None
    signature_outputs_as_dict: bool | None = None
    output_key: str | None = None
    output_shape: Any = None

    def checked(self, *, is_hub_module: bool) -> Choice:
        """This choice with the defaults of a TF1 hub module, if the model is one.

        Args:
            is_hub_module: True for a model in the TF1 hub format.

        Raises:
            ValueError: The parts of the choice contradict each other.
        """
        choice = self
        if is_hub_module:
            key = self.output_key or (None if self.signature_outputs_as_dict else "default")
            choice = replace(self, signature=self.signature or "default", output_key=key)
        if choice.signature and (choice.output_key is not None) == bool(choice.signature_outputs_as_dict):
            raise ValueError(
                "When using a signature, either output_key or signature_outputs_as_dict=True should be set."
            )
        if not choice.signature and choice.signature_outputs_as_dict:
            raise ValueError(
                "signature_outputs_as_dict is only valid if specifying a signature (or using a legacy TF1 Hub format)."
            )
        return choice

    def config(self) -> dict[str, Any]:
        """The choice as Keras keeps it in a file; what is not chosen is left out.

        Raises:
            ValueError: An argument is not a value of JSON.
        """
        for name, value in self.arguments.items():
            try:
                json.dumps(value)
            except TypeError:
                raise ValueError(f"the value of arguments[{name!r}] cannot be saved: it is not JSON") from None
        values = {
            "arguments": dict(self.arguments),
            "signature": self.signature,
            "signature_outputs_as_dict": self.signature_outputs_as_dict,
            "output_key": self.output_key,
        }
        chosen = {name: value for name, value in values.items() if value}
        return chosen if self.output_shape is None else {**chosen, "output_shape": map_shapes(list, self.output_shape)}


class Endpoint:
    """Calls a loaded model as it was chosen.

    Args:
        model: What `tf.saved_model.load` gives, or another callable object.
        choice: A checked choice.
        name: The model in messages.

    Attributes:
        choice: The choice.
        takes_training: True if the model is told whether it is being trained.

    Raises:
        ValueError: The model does not have what was chosen.
    """

    def __init__(self, model: Any, choice: Choice, name: str) -> None:
        self.choice = choice
        self._function = _function(model, choice.signature, name)
        self.takes_training = _takes_training(self._function)

    def __call__(self, inputs: Any, training: Any) -> Any:
        """The model's answer, or the one output of it that was chosen.

        Args:
            inputs: A tensor, or a nest of tensors. A signature gets the tensors of a dict by name.
            training: Whether the model is being trained: a bool or a boolean tensor. None is False.

        Raises:
            ValueError: The answer does not have the output or the shape that was chosen.
        """
        inputs = self._cast(inputs)
        by_name = bool(self.choice.signature) and isinstance(inputs, dict)
        arguments = {**self.choice.arguments, **(inputs if by_name else {})}
        call = functools.partial(self._function, *([] if by_name else [inputs]), **arguments)
        tensorflow = import_tensorflow()
        if not self.takes_training:
            answer = call()
        elif tensorflow.is_tensor(training):
            answer = tensorflow.cond(training, lambda: call(training=True), lambda: call(training=False))
        else:
            answer = call(training=bool(training))
        chosen = self._chosen(answer)
        if self.choice.output_shape is not None:
            first = tensorflow.nest.flatten(inputs)[0]
            batch = first.shape[0] if first.shape.rank else None
            set_shapes(chosen, self.choice.output_shape, batch, tensorflow.TensorShape)
        return chosen

    @functools.cached_property
    def _specs(self) -> tuple[list[Any], dict[str, Any]]:
        """What the function was traced for: the tensors of its arguments, and those that it takes by name."""
        tensorflow = import_tensorflow()
        described = _described(self._function)
        unnamed: list[Any] = []
        named: dict[str, Any] = {}
        for trace in getattr(described, "concrete_functions", [self._function]):
            positional, by_name = getattr(trace, "structured_input_signature", None) or ((), {})
            unnamed += [spec for spec in tensorflow.nest.flatten(positional) if isinstance(spec, tensorflow.TypeSpec)]
            named.update(by_name)
        return unnamed, named

    def input_types(self) -> list[str]:
        """The types of the tensors that the function was published for, each once; empty where nobody knows."""
        unnamed, named = self._specs
        specs = [*unnamed, *(spec for spec in named.values() if hasattr(spec, "dtype"))]
        return list(dict.fromkeys(spec.dtype.name for spec in specs))

    def _cast(self, inputs: Any) -> Any:
        """The inputs with numbers of the types that the function was published for.

        Integers stay integers: a model that takes both may do different things with them.
        """
        tensorflow = import_tensorflow()
        unnamed, named = self._specs
        if self.choice.signature and isinstance(inputs, dict):
            return {
                name: _cast_one(tensorflow, value, _float_type([named.get(name)])) for name, value in inputs.items()
            }
        dtype = _float_type([*unnamed, *named.values()])
        return tensorflow.nest.map_structure(lambda value: _cast_one(tensorflow, value, dtype), inputs)

    def _chosen(self, answer: Any) -> Any:
        key = self.choice.output_key
        if not key:
            return answer
        if not isinstance(answer, dict):
            raise ValueError(  # noqa: TRY004 - as hub.KerasLayer
                f"Specifying `output_key` is forbidden if output type {type(answer)} is not a dict."
            )
        if key not in answer:
            raise ValueError(f"the model's output has no {key!r} (available: {sorted(answer)})")
        return answer[key]


def _function(model: Any, signature: str | None, name: str) -> Any:
    if callable(model) and not signature:
        return model
    signatures = getattr(model, "signatures", None)
    if signatures is None:
        raise ValueError(f"{name} has no signatures" + ("" if signature else ", and cannot be called"))
    if signature is None:
        raise ValueError(
            f"{name} cannot be called: the layer needs the name of a signature (available: {sorted(signatures)})"
        )
    if signature not in signatures:
        raise ValueError(f"Unknown signature {signature} in {name} (available: {sorted(signatures)})")
    return signatures[signature]


def _float_type(specs: Sequence[Any]) -> Any:
    """The one type of floating-point numbers in these; None if there are several or none."""
    dtypes = {spec.dtype for spec in specs if hasattr(spec, "dtype") and spec.dtype.is_floating}
    return dtypes.pop() if len(dtypes) == 1 else None


def _cast_one(tensorflow: Any, value: Any, dtype: Any) -> Any:
    has_floats = dtype is not None and hasattr(value, "dtype") and tensorflow.as_dtype(value.dtype).is_floating
    return tensorflow.cast(value, dtype) if has_floats and value.dtype != dtype else value


def _described(function: Any) -> Any:
    """The part of a callable object that TensorFlow has described: its arguments, and what it was traced for."""
    is_function = inspect.isroutine(function) or hasattr(function, "python_function")
    return function if is_function else function.__call__


def _takes_training(function: Any) -> bool:
    """True if a function has an argument `training`.

    TensorFlow's own reader of arguments is asked: to Python a restored function takes anything.
    """
    inspection = importlib.import_module("tensorflow.python.util.tf_inspect")
    found = inspection.getfullargspec(_described(function))
    return "training" in (*found.args, *found.kwonlyargs)
