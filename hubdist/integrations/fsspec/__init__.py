"""`hubdist://`: files of models by URL, for fsspec and what is built on it, such as pandas and pyarrow.

    with fsspec.open("hubdist://https://tfhub.dev/google/nnlm-en-dim50/2!/assets/tokens.txt") as file:
        ...

fsspec finds `HubdistFileSystem` by hubdist's entry point, so nothing has to be imported.
"""

from hubdist.integrations.fsspec.file_system import HubdistFileSystem
from hubdist.integrations.fsspec.urls import file_url

__all__ = ["HubdistFileSystem", "file_url"]
