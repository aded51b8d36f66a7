"""`HubLayer`: a model of hubdist as a layer of Keras 3, with the arguments of `hub.KerasLayer`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hubdist.client.pinned import load_pinned
from hubdist.integrations.keras.backend import import_keras
from hubdist.integrations.keras.endpoint import Choice, Endpoint
from hubdist.integrations.keras.shapes import map_shapes
from hubdist.integrations.keras.tensors import as_tensors, output_symbols
from hubdist.integrations.keras.weights import (
    attach_losses,
    load_weights,
    save_weights,
    shared_variable,
    variables_of,
)
from hubdist.loading import import_tensorflow, key_of
from hubdist.model.handle import handle_text
from hubdist.model.redact import redact_url

_LOG = logging.getLogger(__name__)

keras = import_keras()
_Layer: Any = keras.layers.Layer
_as_it_is: Any = import_tensorflow().autograph.experimental.do_not_convert
"""Keeps AutoGraph from rewriting a function where a user's `tf.data` map or `tf.function` calls it."""


@keras.saving.register_keras_serializable(package="hubdist")
class HubLayer(_Layer):  # type: ignore[misc]  # keras has no types
    """A Keras 3 layer that calls a SavedModel, from this node's store; TensorFlow must be Keras's backend.

        encoder = HubLayer("https://tfhub.dev/google/nnlm-en-dim50/2", trainable=True)
        model = keras.Sequential([encoder, keras.layers.Dense(1)])

    Each layer has a model of its own: two layers of one handle are trained apart. A file that Keras saves holds the
    handle, the digest, and the weights that differ from the published ones. Who loads the file gets the very same
    bytes, or an error.

    If the callable has the attributes `variables`, `trainable_variables` and `regularization_losses`, they become the
    layer's weights and losses. If it takes an argument `training`, it gets True where the layer is trainable and called
    for training, as `keras.layers.BatchNormalization` does.

    The types of a SavedModel were fixed when it was saved: numbers are cast to what it takes, whatever `dtype` and
    policies of mixed precision say.

    Args:
        handle: As for `hubdist.load`; or a callable object, such as what `hubdist.load` returned. A layer of an object
            that hubdist has not loaded cannot be saved.
        trainable: True trains the model's variables with those of other layers. It works with models that can be
            called, not through a signature and not with the TF1 hub format.
        arguments: Further keyword arguments of each call. A layer can be saved if they are values of JSON.
        tags: As for `hubdist.load`.
        signature: The signature to call; None calls the object, and the signature `default` of the TF1 hub format. With
            a signature, `output_key` or `signature_outputs_as_dict` must be given.
        signature_outputs_as_dict: True returns all outputs of the signature as a dict.
        output_key: The name of the output to return, if the model returns a dict.
        output_shape: The shape of the output without the batch, or a nest of shapes like the output; for models whose
            shapes TensorFlow cannot find out.
        load_options: As `options` of `hubdist.load`. They are not saved with the layer.
        digest: The digest of the model, `sha256:<hex>`, if no other bytes will do; None takes what the handle stands
            for. A saved layer has one.
        input_shape: Nothing is done with it: Keras 3 finds it by itself. Programs for `hub.KerasLayer` pass it.
        **layer_options: Arguments of `keras.layers.Layer`, such as `name`.

    Attributes:
        resolved_object: The loaded model.

    Raises:
        ValueError: The arguments contradict each other, or the model does not have what they name.
        TypeError: The callable object is a Keras layer already.
        DigestMismatchError: Nobody has the digest, and the handle stands for other bytes now.
        HubdistError: As for `hubdist.load`.
    """

    def __init__(
        self,
        handle: Any,
        trainable: bool = False,
        arguments: Mapping[str, Any] | None = None,
        *,
        tags: str | Sequence[str] | None = None,
        signature: str | None = None,
        signature_outputs_as_dict: bool | None = None,
        output_key: str | None = None,
        output_shape: Any = None,
        load_options: Any = None,
        digest: str | None = None,
        input_shape: Any = None,  # noqa: ARG002 - taken for programs that pass it to hub.KerasLayer
        **layer_options: Any,
    ) -> None:
        super().__init__(trainable=trainable, **layer_options)
        model, name = _model(handle, tags, load_options, digest)
        shapes = None if output_shape is None else map_shapes(tuple, output_shape)
        choice = Choice(dict(arguments or {}), signature, signature_outputs_as_dict, output_key, shapes)
        is_hub_module = bool(getattr(model, "_is_hub_module_v1", False))
        self._endpoint = Endpoint(model, choice.checked(is_hub_module=is_hub_module), name)
        if self._endpoint.input_types():
            self.autocast = False  # the endpoint knows better than `dtype` what the model takes
        self._has_warned = False
        self.supports_jit = False  # the model may look up strings, which XLA cannot
        self.resolved_object = model  # TensorFlow tracks it: tables and assets get into exports
        with keras.name_scope(self.name):
            weights = [
                (shared_variable(keras, variable, trainable=kind), kind) for variable, kind in variables_of(model)
            ]
        for weight, _ in weights:
            # What Keras's own TFSMLayer calls: there is no public way to track a variable that exists.
            self._track_variable(weight)
        attach_losses([weight for weight, is_trainable in weights if is_trainable], model)

    @_as_it_is  # type: ignore[untyped-decorator]  # tensorflow has no types
    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer on a tensor or a symbol, or a nest of them; arrays, lists, numbers and texts become tensors.

        Args:
            inputs: The input of the model.
            *args: Further arguments of `keras.layers.Layer`.
            **kwargs: Likewise; `training` says whether the model is being trained.
        """
        return super().__call__(as_tensors(keras, inputs), *args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Call the model; Keras does this, with `layer(inputs)`.

        Args:
            inputs: A tensor, or a nest of tensors.
            training: True while the outer model is trained.

        Raises:
            ValueError: The layer is trainable and the model cannot be trained, or the output is not the described one.
        """
        self._check_trainable()
        return self._endpoint(inputs, training if self.trainable else False)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """The shapes and types of the outputs; Keras asks for them where a model is built of symbols.

        Args:
            inputs: A `keras.KerasTensor`, or a nest of them.
            training: As for `call`.

        Raises:
            ValueError: TensorFlow cannot find out a shape, and `output_shape` was not given.
        """
        return output_symbols(keras, lambda tensors: self.call(tensors, training), inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the output, or a nest of shapes like the output.

        Args:
            input_shape: The shape of the input with the batch, or a nest of shapes like the input.

        Raises:
            ValueError: As for `compute_output_spec`.
        """
        types = self._endpoint.input_types()
        dtype = types[0] if len(types) == 1 else keras.config.floatx()
        inputs = keras.tree.map_shape_structure(lambda shape: keras.KerasTensor(shape, dtype), input_shape)
        return keras.tree.map_structure(lambda symbol: symbol.shape, self.compute_output_spec(inputs))

    def get_config(self) -> dict[str, Any]:
        """The arguments as Keras saves them, with the digest; secrets of the handle are left out.

        Raises:
            NotImplementedError: The layer was made of an object that hubdist has not loaded.
            ValueError: `arguments` has values that are not JSON.
        """
        key = key_of(self.resolved_object)
        if key is None:
            raise NotImplementedError(
                f"{self.name} cannot be saved: hubdist has not loaded its {type(self.resolved_object).__name__}. Make"
                " the layer with a handle, or of what hubdist.load returned."
            )
        tags = {} if key.tags is None else {"tags": list(key.tags)}
        return {
            **super().get_config(),
            "handle": key.handle,
            "digest": str(key.digest),
            **tags,
            **self._endpoint.choice.config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HubLayer:
        """The layer that `get_config` describes; Keras calls this. Errors keep their types, as in `HubLayer(...)`.

        Raises:
            DigestMismatchError: Nobody has the digest, and the handle stands for other bytes now.
            HubdistError: As for `hubdist.load`.
        """
        return cls(**config)

    def save_own_variables(self, store: Any) -> None:
        """Save the weights that differ from the published ones; Keras calls this.

        Args:
            store: What Keras writes: names to values.
        """
        save_weights(store, self.weights, self.resolved_object)

    def load_own_variables(self, store: Any) -> None:
        """Take the weights that were saved, and the published ones for those that were not; Keras calls this.

        Args:
            store: What Keras read: names to values.

        Raises:
            ValueError: The weights were saved of another model.
            HubdistError: The published weights are needed, and the model cannot be loaded again.
        """
        load_weights(store, self.weights, self.resolved_object)

    def _check_trainable(self) -> None:
        """Check that the model can be trained if it shall be. At each call, because `trainable` can be set."""
        if not self.trainable:
            return
        if self._endpoint.choice.signature:
            raise ValueError(
                f"{self.name}.trainable = True is unsupported for a signature or a model in the TF1 hub format: they do"
                " not say how they are trained."
            )
        if not self.trainable_weights and not self._has_warned:
            self._has_warned = True
            _LOG.error("hubdist: the layer %s is trainable but has zero trainable weights", self.name)


def _model(handle: Any, tags: str | Sequence[str] | None, load_options: Any, digest: str | None) -> tuple[Any, str]:
    """The object that a layer calls, and what it is called in messages."""
    if isinstance(handle, (str, os.PathLike)):
        return load_pinned(handle, digest, tags, load_options), redact_url(handle_text(handle))
    given = {"tags": tags, "load_options": load_options, "digest": digest}
    for argument, value in given.items():
        if value is not None:
            raise ValueError(f"{argument} is for handles: what was passed as handle is loaded already")
    if isinstance(handle, keras.layers.Layer):
        raise TypeError(f"{handle.name} is a Keras layer already: use it as it is")
    return handle, f"the {type(handle).__name__}"
