"""`python -m hubdist`: the same as the command `hubdist`."""

import sys
from pathlib import Path

from hubdist.cli.main import main

if __name__ == "__main__":
    # Ray puts the directory of `argv[0]` on the path of its workers, where hubdist's own modules would hide others.
    sys.argv[0] = str(Path(sys.executable).with_name("hubdist"))
    main()
