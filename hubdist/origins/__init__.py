"""One module for each kind of handle; each fetches a model from its origin into a sink."""
