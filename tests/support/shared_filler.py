"""Fills a shared cache, again and again, each time in a process of its own that a test may kill.

Each line on standard input is a JSON list: address of the emulator, URL of the cache, root of a store that holds the
snapshot, its digest. For each, a forked process does what a cluster does; its process id is printed when it begins,
its status when it has ended. One interpreter forks all of them, because imports take longer than the work.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from hubdist.config.schema import Config
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.shared_cache.cache import SharedCache, SharedSnapshot
from hubdist.store.store import Store

HANDLE = parse_handle("https://tfhub.dev/google/filled/1")


def fill(url: str, store: Path, digest: Digest) -> SharedSnapshot:
    """What one cluster does that has read the origin."""
    cache = SharedCache(url, Config(origin_retries=3, stall_timeout_s=20))
    with cache.lease(HANDLE.key, lambda: cache.find(digest)) as found:
        if found is not None:
            return found
        snapshot = Store(store).find(digest)
        assert snapshot is not None
        with snapshot:
            return cache.fill(snapshot, HANDLE)


def main() -> None:
    os.environ.update(GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false", NO_GCE_CHECK="true")
    import gcsfs  # noqa: F401 - what the forked processes need

    import hubdist.remote.fsspec_tree  # noqa: F401 - what the forked processes need

    for line in sys.stdin:
        address, url, store, digest = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ["STORAGE_EMULATOR_HOST"] = address
                fill(url, Path(store), Digest.parse(digest))
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
