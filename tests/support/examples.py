"""How many examples a property test tries, and how much a stress test does."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("quick", max_examples=25)


def examples(count: int) -> int:
    """A number of examples, scaled as the profile scales hypothesis's own 100: `quick`, for the inner loop, by 4."""
    return max(1, count * settings().max_examples // 100)
