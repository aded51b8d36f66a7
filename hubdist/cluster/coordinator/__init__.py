"""The coordinator: the one actor of a job that resolves, remembers and plans."""
