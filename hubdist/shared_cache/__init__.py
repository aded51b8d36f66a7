"""The shared cache: snapshots on object storage, or on a mount, that every node can read."""
