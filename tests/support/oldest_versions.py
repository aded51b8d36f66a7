"""Print the oldest versions that pyproject.toml names, as requirements: `python -m tests.support.oldest_versions`.

`make test-oldest` installs these and runs the tests that TensorFlow and Ray have a part in.
"""

from __future__ import annotations

import tomllib

from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.support import REPOSITORY

EXTRAS = ("tf-cpu", "kaggle", "plot")


def oldest(text: str) -> str | None:
    """The requirement for the oldest release line that a dependency allows; None if it is not for this machine."""
    wanted = Requirement(text)
    if wanted.marker is not None and not wanted.marker.evaluate(dict(default_environment())):
        return None
    (bound,) = [each.version for each in wanted.specifier if each.operator == ">="]
    extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
    return f"{wanted.name}{extras}=={bound}.*"


def main() -> None:
    """Print one requirement for each dependency and each of `EXTRAS`."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(text for extra in EXTRAS for text in optional[extra])]
    print("\n".join(found for text in wanted if (found := oldest(text)) is not None))


if __name__ == "__main__":
    main()
