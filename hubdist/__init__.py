"""TensorFlow Hub models for every process of a Ray cluster."""

__version__ = "0.1.0"
