"""From a handle to a manifest, and the model's files into the store of the driver's node."""
