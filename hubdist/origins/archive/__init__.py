"""Safe streaming unpacking of model archives: tar, tar.gz and zip.

This code writes every member itself, into a `FileSink`. It does not use the standard library's extraction, whose
filters were escaped more than once (CVE-2025-4517 and later). Models need files and directories only. Everything else
that an archive can hold is refused, and so is an archive that is incomplete, contradicts itself or has bytes behind its
end. After an error, the caller discards the files that were written before.
"""

from hubdist.origins.archive.members import ArchiveFormat, ArchiveLimits, detect_format, other_format
from hubdist.origins.archive.tar import unpack_stream
from hubdist.origins.archive.zip import unpack_zip

__all__ = ["ArchiveFormat", "ArchiveLimits", "detect_format", "other_format", "unpack_stream", "unpack_zip"]
