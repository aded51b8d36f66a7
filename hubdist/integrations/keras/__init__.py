"""For Keras 3 with the TensorFlow backend: a model of hubdist as a Keras layer.

    import keras
    from hubdist.integrations.keras import HubLayer

    model = keras.Sequential([HubLayer(handle, trainable=True), keras.layers.Dense(1)])

To load a Keras model that was saved with such a layer in it, a program must have imported this module before.
"""

from hubdist.integrations.keras.layer import HubLayer

__all__ = ["HubLayer"]
