"""Who the origin of a handle is asked as, in words without secrets, before anything is asked."""

from __future__ import annotations

from hubdist.errors import HubdistError
from hubdist.model.access import OriginAccess
from hubdist.model.handle import Handle, Kind
from hubdist.model.hf_names import SCHEME
from hubdist.remote.identity import ANONYMOUSLY, LOOK_S, UNKNOWN, identity_of_files, this_user
from hubdist.system.deadline import Deadlines
from hubdist.system.foreign import call_foreign
from hubdist.system.threads import run_within


def origin_identity(handle: Handle, deadlines: Deadlines, access: OriginAccess) -> str:
    """Who the origin of a handle is asked as.

    Args:
        handle: Any handle.
        deadlines: Timeouts of clients of storage.
        access: The headers and logins of this node.
    """
    base = handle.root
    if base.kind is Kind.CUSTOM:
        return f"by the function for {base.scheme}://"
    if base.kind is Kind.KAGGLE:
        return kaggle_identity()
    if base.scheme == SCHEME:
        return hugging_face_identity()
    if base.scheme in ("http", "https"):
        from hubdist.origins.http.credentials import identity_at

        return identity_at(base.text, access)
    return place_identity(base, deadlines)


def place_identity(handle: Handle, deadlines: Deadlines, *, look_s: float = LOOK_S) -> str:
    """Who this process is to the place that a handle names, before anything is read there.

    Args:
        handle: A LOCAL handle, or one on object storage.
        deadlines: Timeouts of the storage's client.
        look_s: Longest time to look for credentials.
    """
    base = handle.root
    if base.kind is Kind.LOCAL:
        return this_user()
    from hubdist.remote.fsspec_files import open_files  # loads aiohttp, which other origins do not need

    def look() -> str:
        files, _ = call_foreign(lambda: open_files(base, deadlines), base.redacted, "opened")
        return identity_of_files(base.scheme, files, look_s=look_s)

    try:
        return run_within(look, "hubdist-identity", look_s)
    except HubdistError as error:
        return f"not at all: {error.what}"
    except TimeoutError:
        return UNKNOWN


def kaggle_identity() -> str:
    """Who Kaggle is asked as, as kagglehub finds it."""
    try:
        import kagglehub.config
    except (ImportError, RuntimeError):
        return "not at all: kagglehub cannot be imported"
    try:
        found = kagglehub.config.get_kaggle_credentials()
    except (OSError, ValueError):
        return "anonymously, because kaggle.json is damaged"
    if found is None:
        return "anonymously"
    name = getattr(found, "username", None)
    return f"as Kaggle user {name}" if name else "with a Kaggle API token"


def hugging_face_identity() -> str:
    """Who Hugging Face is asked as, as huggingface_hub finds it."""
    try:
        import huggingface_hub
        from huggingface_hub.utils._auth import get_stored_tokens
    except ImportError:
        return "not at all: huggingface_hub cannot be imported"
    token = huggingface_hub.get_token()
    if token is None:
        return ANONYMOUSLY
    named = [name for name, stored in get_stored_tokens().items() if stored == token]
    return f"with the token {named[0]} of `hf auth login`" if named else "with the token of HF_TOKEN or its file"
