"""Who this node is to a storage, in words without secrets: for errors of rights, and for `plan`.

What the clients of the storages found is described: an account, a profile, the place of a key. Nothing is asked but
what a client asks to sign its first request, and nothing waits for longer than seconds.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from typing import Any

from hubdist.errors import HubdistError
from hubdist.system.foreign import call_foreign
from hubdist.system.threads import run_within

ANONYMOUSLY = "anonymously"
UNKNOWN = "with this node's credentials"
LOOK_S = 5.0
"""Longest time in seconds to look for credentials."""


_GOOGLE = {
    "google.oauth2.credentials": "as the user of `gcloud auth application-default login`",
    "google.auth.compute_engine": "as the service account of this machine",
    "google.auth.identity_pool": "as the workload identity of this node",
    "google.auth.aws": "as the workload identity of this node",
    "google.auth.pluggable": "as the workload identity of this node",
}
"""The modules of credentials that do not tell whose they are -> who that is. Source: google-auth 2.62."""

_AWS = {
    "env": "with the key of variable AWS_ACCESS_KEY_ID",
    "assume-role": "as the role of AWS profile {profile}",
    "assume-role-with-web-identity": "as the role of this node's web identity token (AWS_ROLE_ARN)",
    "iam-role": "as the role of this machine",
    "container-role": "as the role of this container",
    "custom-process": "with the process of AWS profile {profile}",
    "sso": "with the login of AWS profile {profile}",
    "login": "with the login of AWS profile {profile}",
    "shared-credentials-file": "with the key of AWS profile {profile}",
    "config-file": "with the key of AWS profile {profile}",
}
"""botocore's names of the places where it finds credentials -> who that is. Source: botocore 1.43, credentials.py."""


def identity_of_files(scheme: str, files: Any, *, look_s: float = LOOK_S) -> str:
    """Who an fsspec file system is to its storage.

    Args:
        scheme: The scheme that it was opened for.
        files: The file system.
        look_s: Longest time to look for credentials.
    """
    look = _LOOKS.get(scheme)
    if look is None:
        return UNKNOWN
    try:
        return call_foreign(lambda: run_within(lambda: look(files), "hubdist-identity", look_s), f"{scheme}://")
    except HubdistError:  # the words of an error must not hide the error
        return UNKNOWN


def this_user() -> str:
    """The user of this process, for files."""
    number = os.geteuid()
    try:
        return f"as user {pwd.getpwuid(number).pw_name} (uid {number})"
    except KeyError:
        return f"as uid {number}"


def google_words(credentials: Any) -> str:
    """Who credentials of google-auth stand for; None stands for nobody."""
    if credentials is None:
        return ANONYMOUSLY
    email = getattr(credentials, "service_account_email", None) or getattr(credentials, "signer_email", None)
    if isinstance(email, str) and "@" in email:
        return f"as service account {email}"
    account = getattr(credentials, "account", None)
    if isinstance(account, str) and account:
        return f"as user {account}"
    home = type(credentials).__module__
    return next((words for begin, words in _GOOGLE.items() if home.startswith(begin)), UNKNOWN)


def _aws(files: Any) -> str:
    if files.anon:
        return ANONYMOUSLY
    if files.key:
        return "with the key of fsspec's configuration"
    import botocore.session

    session = botocore.session.Session(profile=getattr(files, "profile", None))
    found = session.get_credentials()
    if found is None:
        return "without credentials"
    profile = session.get_config_variable("profile") or "default"
    text = _AWS.get(found.method, UNKNOWN)
    role = session.full_config.get("profiles", {}).get(profile, {}).get("role_arn")
    if found.method == "assume-role" and role:
        return f"as role {role} of AWS profile {profile}"
    return text.format(profile=profile)


def _azure(files: Any) -> str:
    account = getattr(files, "account_name", None)
    of_account = f" for account {account}" if account else ""
    if getattr(files, "account_key", None):
        return f"with an account key{of_account}"
    if getattr(files, "sas_token", None):
        return f"with a SAS token{of_account}"
    if getattr(files, "connection_string", None):
        return "with AZURE_STORAGE_CONNECTION_STRING"
    client = getattr(files, "client_id", None)
    if client and getattr(files, "client_secret", None):
        return f"as application {client}{of_account}"
    if getattr(files, "credential", None):
        return f"with Azure's default credentials of this node{of_account}"
    return ANONYMOUSLY


_LOOKS: dict[str, Callable[[Any], str]] = {
    "gs": lambda files: google_words(files.credentials.credentials),
    "s3": _aws,
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), _azure),
}
