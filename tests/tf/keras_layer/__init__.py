"""Tests of the Keras 3 layer, on models as publishers made them with Keras 2 and TF1."""
