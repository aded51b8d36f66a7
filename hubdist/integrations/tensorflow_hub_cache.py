"""Keeps TensorFlow Hub's own cache filled, for programs that look into the directory that they named for it.

hubdist itself needs no such copy, so a cache that cannot be written is no error.

Source: tensorflow_hub 0.16.1, `resolver.py` and `compressed_module_resolver.py`: a model is in `<sha1 of the handle>`,
and a file beside it says where it comes from.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import os
import shutil
import socket
from pathlib import Path

from hubdist.model.paths import SAVED_MODEL_FILES
from hubdist.model.redact import redact_url
from hubdist.system.disk import unique_name
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)
_once = LogOnce(_LOG)


def fill_cache(cache: Path, handle: str, directory: Path) -> None:
    """Copy a model into TensorFlow Hub's cache, unless the cache has something for its handle.

    Args:
        cache: The directory of the cache; it is made if it is missing.
        handle: The model's handle, as the program wrote it.
        directory: Where the model's files are.
    """
    name = hashlib.sha1(handle.encode(), usedforsecurity=False).hexdigest()
    target = cache / name
    stage = cache / f"{name}.{unique_name()}.tmp"
    try:
        if _is_filled(target):
            return
        _copy_files(directory, stage)
        if any((stage / file).exists() for file in SAVED_MODEL_FILES):
            # TensorFlow saves every model with this directory, and a snapshot has no directory without files.
            (stage / "assets").mkdir(exist_ok=True)
        Path(f"{target}.descriptor.txt").write_text(_description(handle), encoding="utf-8")
        stage.rename(target)
    except OSError as error:
        shutil.rmtree(stage, ignore_errors=True)
        if not _is_filled(target):  # else another process was faster
            place = error.strerror or type(error).__name__
            _once.log(str(cache), "hubdist: no copies of models in TensorFlow Hub's cache %s: %s", cache, place)


def _is_filled(target: Path) -> bool:
    """True if TensorFlow Hub would take this directory for the model: any that is not empty."""
    return target.is_dir() and any(target.iterdir())


def _copy_files(directory: Path, stage: Path) -> None:
    """Copy contents without modes, so that the program's user can delete the copy as any other one."""
    for folder, _, files in os.walk(directory):
        into = stage / Path(folder).relative_to(directory)
        into.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(Path(folder, file), into / file)


def _description(handle: str) -> str:
    now = dt.datetime.now()  # noqa: DTZ005 - local, as TensorFlow Hub writes it
    host = f"{socket.gethostname()} (PID:{os.getpid()})"
    return f"Module: {redact_url(handle)}\nDownload Time: {now}\nDownloader Hostname: {host}"
