"""gc, rm, verify, keep and eviction against readers: 10,000 operations in 8 processes, two stores and a shared cache.

    python benchmarks/gc_against_readers.py

Prints how often each was done, and what went wrong: no read may fail or give wrong bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.gc_against_readers import main

if __name__ == "__main__":
    main()
