"""What a model is: handles, manifests, digests, chunks and paths, without network, Ray and TensorFlow."""
