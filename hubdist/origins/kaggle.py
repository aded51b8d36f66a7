"""Kaggle models, through the optional package kagglehub.

kagglehub writes to its final path without a lock, so two downloads at once can leave a wrong file. It downloads into
a private directory here, and what it left is digested like any other origin.
"""

from __future__ import annotations

from pathlib import Path

from hubdist.errors import AccessDeniedError, HandleError, HubdistError, ModelNotFoundError, OriginError
from hubdist.handle import Handle
from hubdist.origins.local import LocalOrigin
from hubdist.source import FileSink


class KaggleOrigin:
    """A model of kaggle.com.

    Args:
        handle: Of kind KAGGLE.
        scratch: A private directory for the download.

    Raises:
        HandleError: kagglehub is not installed.
    """

    def __init__(self, handle: Handle, scratch: Path) -> None:
        self._handle = handle
        self._folder = scratch / "kaggle"
        try:
            import kagglehub
        except ImportError:
            raise HandleError(
                "Kaggle models need the package kagglehub, which is not installed where the driver runs",
                advice="Run: pip install 'hubdist[kaggle]'",
                handle=handle.public,
            ) from None
        self._kagglehub = kagglehub

    def fetch(self, sink: FileSink) -> None:
        """Download the model and write its files into `sink`."""
        name = self._handle.text.removeprefix("kaggle://")
        self._folder.mkdir()
        failures: tuple[type[Exception], ...] = (OSError, ValueError, *self._own_errors())  # requests' are OSErrors
        try:
            path = self._kagglehub.model_download(name, output_dir=str(self._folder))
        except failures as error:
            raise self._translated(error) from error
        LocalOrigin(Path(path)).fetch(sink)

    def _own_errors(self) -> tuple[type[Exception], ...]:
        errors = self._kagglehub.exceptions
        return tuple(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception))

    def _translated(self, error: Exception) -> HubdistError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        public = self._handle.public
        name = type(error).__name__
        if status in (401, 403) or name in ("CredentialError", "UnauthenticatedError"):
            return AccessDeniedError(
                f"Kaggle wants credentials for {public}",
                advice="Set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, where the driver runs.",
            )
        if status in (404, 410) or name == "NotFoundError":
            return ModelNotFoundError(f"Kaggle has no model {public}")
        return OriginError(f"Kaggle cannot be read ({name})", advice="Is www.kaggle.com reachable from the driver?")
