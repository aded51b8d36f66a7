"""Measures on this machine alone, where there is no Ray."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from hubdist.errors import HubdistError, PeerError, TransferTimeoutError
from hubdist.health.examination import Target
from hubdist.health.probe import Probe
from hubdist.system.threads import run_within


class LocalProbes:
    """The `Probes` of one node: this process."""

    def __init__(self) -> None:
        name = platform.node() or "local"
        self.driver = Target(name, name, "127.0.0.1")
        self.targets: Sequence[Target] = (self.driver,)
        self._probe = Probe()

    def ask(
        self, method: str, arguments: Mapping[str, tuple[Any, ...]], timeout_s: float
    ) -> dict[str, Any | HubdistError]:
        """Call a method of the probe, in a thread that is left behind if it is late.

        Args:
            method: The method's name.
            arguments: Name of the node -> the arguments.
            timeout_s: Longest wait in seconds.
        """
        answers: dict[str, Any | HubdistError] = {}
        for name, values in arguments.items():
            work = functools.partial(getattr(self._probe, method), *values)
            try:
                answers[name] = run_within(work, "hubdist-doctor", timeout_s)
            except TimeoutError:
                answers[name] = TransferTimeoutError(f"no answer within {timeout_s:g} s")
            except HubdistError as error:
                answers[name] = error
            except (OSError, ValueError) as error:
                answers[name] = PeerError(f"the call failed with {type(error).__name__}")
        return answers
