"""PURE: what a model is. Handles, manifests, digests, chunks, paths; no network, no Ray, no TensorFlow."""
