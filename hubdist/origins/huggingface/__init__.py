"""Repositories on Hugging Face: which commit a revision is, which files it has, and their bytes.

One module for each of the three: `hub` asks the hub through the package huggingface_hub, `downloads` downloads several
files at a time, and `origin` puts them into a sink.
"""

from hubdist.origins.huggingface.hub import HfHub, check_hugging_face, is_offline, needs_commit
from hubdist.origins.huggingface.origin import HuggingFaceOrigin, open_file

__all__ = ["HfHub", "HuggingFaceOrigin", "check_hugging_face", "is_offline", "needs_commit", "open_file"]
