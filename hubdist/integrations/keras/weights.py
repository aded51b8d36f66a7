"""The variables of a loaded model as weights of a Keras layer: shared, not copied; and how a layer saves them.

Keras 3 tracks, trains and saves its own `keras.Variable` only. Such a variable can be made around a `tf.Variable` that
exists. Then the model, which reads the one, sees what Keras's optimizers write to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hubdist.client.pinned import load_pinned
from hubdist.loading import import_tensorflow, key_of, unwritten_variables

_DIGEST = "digest"
"""Where a layer's saved weights hold the digest of the model, as the 32 bytes of its value."""


def variables_of(model: Any) -> Iterator[tuple[Any, bool]]:
    """Each variable of a model that is a weight of its layer, and whether it is trained; those that are come first.

    The attributes `variables` and `trainable_variables` name them. A variable without a fixed shape cannot be a weight.

    Args:
        model: A loaded model or another callable object.
    """
    trainable = list(getattr(model, "trainable_variables", ()))
    seen: set[int] = set()
    for variable in (*trainable, *getattr(model, "variables", ())):
        if id(variable) not in seen and variable.shape.is_fully_defined():
            seen.add(id(variable))
            yield variable, len(seen) <= len(trainable)


def shared_variable(keras: Any, variable: Any, *, trainable: bool) -> Any:
    """A `keras.Variable` whose value is that of a `tf.Variable`, now and later.

    Args:
        keras: The module `keras`.
        variable: The `tf.Variable`, which may be one of a `tf.distribute` strategy.
        trainable: True if optimizers change it.
    """
    return keras.Variable(
        variable,
        dtype=variable.dtype.name,
        trainable=trainable,
        autocast=False,
        name=variable.name.partition(":")[0].replace("/", "_"),
    )


def attach_losses(trainable: Sequence[Any], model: Any) -> None:
    """Let a layer's losses have the model's regularization losses, for as long as the layer is trainable.

    They hang on the trained weights, as Keras's own regularizers do: Keras asks those for their losses at each step.

    Args:
        trainable: The layer's weights that are trained while the layer is trainable.
        model: The loaded model; its `regularization_losses` take no argument and return a scalar.

    Raises:
        ValueError: `regularization_losses` has something that cannot be called.
    """
    losses = list(getattr(model, "regularization_losses", ()))
    for loss in losses:
        if not callable(loss):
            raise ValueError(  # noqa: TRY004 - as hub.KerasLayer
                "HubLayer(obj) expects obj.regularization_losses to be an iterable of callables, each returning a"
                f" scalar loss term, and found {loss!r}"
            )
    for number, weight in enumerate(trainable):
        own = losses[number :: len(trainable)]
        if own:
            weight.regularizer = _sum_of(own)


def _sum_of(losses: Sequence[Callable[[], Any]]) -> Callable[[Any], Any]:
    return lambda _weight: sum(loss() for loss in losses)


def save_weights(store: Any, weights: Sequence[Any], model: Any) -> None:
    """Save a layer's weights, without those that are as they were published.

    Args:
        store: What Keras writes: names to values.
        weights: The layer's weights.
        model: The layer's model.
    """
    published = {id(variable) for variable in unwritten_variables(model)}
    for number, weight in enumerate(weights):
        if id(weight.value) not in published:
            store[str(number)] = weight.numpy()
    key = key_of(model)
    if key is not None:
        store[_DIGEST] = import_tensorflow().constant(list(bytes.fromhex(key.digest.value)), "uint8")


def load_weights(store: Any, weights: Sequence[Any], model: Any) -> None:
    """Give a layer the weights that were saved; those that were not saved get the published values.

    Args:
        store: What Keras read: names to values.
        weights: The layer's weights.
        model: The layer's model.

    Raises:
        ValueError: The weights were saved of another model.
        HubdistError: The published values are needed, and the model cannot be loaded again.
    """
    names = set(store.keys())
    saved = {number: store[str(number)] for number in range(len(weights)) if str(number) in names}
    missing = [number for number in range(len(weights)) if number not in saved]
    key = key_of(model)
    digest = bytes(store[_DIGEST]).hex() if _DIGEST in names else None
    if len(saved) != len(names - {_DIGEST}) or (missing and (key is None or digest != key.digest.value)):
        raise ValueError(
            f"these weights were saved of another model: {f'sha256:{digest}' if digest else 'not of a HubLayer'}, with"
            f" {len(names - {_DIGEST})} changed weights; this one is {key.digest if key else 'not loaded by hubdist'},"
            f" with {len(weights)} weights"
        )
    for number, value in saved.items():
        weights[number].assign(value)
    published = {id(variable) for variable in unwritten_variables(model)}
    changed = [number for number in missing if id(weights[number].value) not in published]
    if changed and key is not None:
        as_published = [variable for variable, _ in variables_of(load_pinned(key.handle, str(key.digest), key.tags))]
        for number in changed:
            weights[number].assign(as_published[number].read_value())
