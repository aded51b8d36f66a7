"""The files of one manifest as a file system whose paths are relative to the model's root."""

from __future__ import annotations

from typing import Any

from fsspec import AbstractFileSystem

from hubdist.model.manifest import Manifest


class ManifestListing(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Lists and finds the files of a model, and reads none. fsspec's own `glob`, `find` and `walk` work on it.

    Args:
        manifest: The model's files.
    """

    protocol = "hubdist-listing"
    cachable = False  # fsspec would keep it for ever

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        self._files = {entry.path: entry for entry in manifest.entries}
        self._directories: dict[str, dict[str, str]] = {"": {}}
        """Path of a directory -> name of each thing in it -> its path."""
        for path in self._files:
            child = path
            while child:
                parent, _, name = child.rpartition("/")
                self._directories.setdefault(parent, {})[name] = child
                child = parent

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What is known of a file or directory: name, size in bytes, type, and of a file its digest.

        Args:
            path: The path below the model's root.
            **_: Of fsspec; nothing is known.

        Raises:
            FileNotFoundError: The model has nothing there.
        """
        path = self._strip_protocol(path)
        if path in self._directories:
            return {"name": path, "size": 0, "type": "directory"}
        if path not in self._files:
            raise FileNotFoundError(path)
        entry = self._files[path]
        return {"name": path, "size": entry.size, "type": "file", "digest": str(entry.digest)}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a directory; of a file, the file itself.

        Args:
            path: The path below the model's root.
            detail: False gives names alone.
            **_: Of fsspec; nothing is known.

        Raises:
            FileNotFoundError: The model has nothing there.
        """
        found = self.info(path)
        children = sorted(self._directories.get(found["name"], {}).values())
        infos = [self.info(child) for child in children] if found["type"] == "directory" else [found]
        return infos if detail else [each["name"] for each in infos]
