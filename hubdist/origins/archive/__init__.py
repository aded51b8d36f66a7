"""Safe streaming unpacking of model archives: tar, tar.gz and zip.

Every member is written by this code, into a `FileSink`; nothing of the standard library's extraction is used, whose
filters were escaped more than once (CVE-2025-4517 and later). Models need files and directories: everything else an
archive can hold is refused, and so is an archive that is not complete, disagrees with itself or has bytes behind its
end. What was staged before an error is discarded by the caller.
"""

from hubdist.origins.archive.members import ArchiveFormat, ArchiveLimits, detect_format, other_format
from hubdist.origins.archive.tar import unpack_stream
from hubdist.origins.archive.zip import unpack_zip

__all__ = ["ArchiveFormat", "ArchiveLimits", "detect_format", "other_format", "unpack_stream", "unpack_zip"]
