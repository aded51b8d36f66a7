"""What the process that tries to connect to Ray prints, and what it means."""

from __future__ import annotations

import pytest

from hubdist.config.variables import RayAccess
from hubdist.health.finding import Level


@pytest.mark.parametrize(
    ("said", "ended", "state"),
    [
        ("@at 10.0.0.1:6379\n@connected\n", True, "connected"),
        ("@none\n", True, "none"),
        ("@at 10.0.0.1:6379\n@closed [Errno 111] Connection refused\n", True, "closed"),
        (
            "@at 10.0.0.1:6379\nW gcs_client.cc:210: Unauthenticated: RPC error: InvalidAuthToken\n",
            False,
            "wrong token",
        ),
        ("@at 10.0.0.1:6379\n@no-token\n", True, "no token"),
        ("@at 10.0.0.1:6379\n@refused Version mismatch: Ray: 2.59.0\n", True, "refused"),
        ("@at 10.0.0.1:6379\nFailed to connect to GCS within 5 seconds.\n", False, "silent"),
        ("@at 10.0.0.1:6379\nFatal Python error: Aborted\n", True, "refused"),
        ("", False, "silent"),
    ],
)
def test_each_way_to_fail_is_told_from_the_others(said: str, ended: bool, state: str) -> None:
    from hubdist.cluster.ray_access import judge_output, judge_ray

    tried = judge_output(said, ended=ended)
    assert tried.status.value == state
    found = judge_ray(tried, RayAccess(None, "token", "RAY_AUTH_TOKEN"))
    assert (found.level is Level.OK) == (state in ("connected", "none"))
    assert (found.mend is None) == (found.level is Level.OK)
