"""Points the package huggingface_hub of this process at a hub of the test's."""

from __future__ import annotations

from pathlib import Path

import pytest


def use_hub(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let huggingface_hub ask a hub on this machine, with a cache and without a token of the user's.

    Args:
        url: The hub's address.
        home: What stands for HF_HOME.
        monkeypatch: Takes it back.

    Returns:
        The cache.
    """
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", url)  # read from HF_ENDPOINT when the package is imported
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)
    return home / "hub"
