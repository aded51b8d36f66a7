"""Errors that come through Ray: its wrapper of an actor's error is the error's own class too, and Python's."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import Future

import cloudpickle
import pytest
from ray.exceptions import RayTaskError

from hubdist.cluster.calls import settle
from hubdist.errors import HubdistError, ModelNotFoundError, TransferTimeoutError
from tests.support.made_errors import OWN_AND_PYTHONS, fields, make


def test_an_error_that_ray_hands_on_is_pythons_too() -> None:
    for kind, python in ((ModelNotFoundError, FileNotFoundError), (TransferTimeoutError, TimeoutError)):
        sent = pickle.loads(cloudpickle.dumps(make(kind)))
        raised = RayTaskError("load", "traceback", sent).as_instanceof_cause()
        assert isinstance(raised, kind)
        assert isinstance(raised, python)
        assert fields(raised.cause) == fields(make(kind))
        assert fields(pickle.loads(cloudpickle.dumps(raised)).cause) == fields(make(kind))


async def _settled(error: Exception) -> None:
    class Reference:
        def future(self) -> Future[None]:
            done: Future[None] = Future()
            done.set_exception(error)
            return done

    await settle(Reference(), timeout_s=5, node="n1")


@pytest.mark.parametrize("kind", OWN_AND_PYTHONS, ids=lambda kind: kind.__name__)
def test_a_call_to_another_actor_raises_what_the_actor_raised(kind: type[HubdistError]) -> None:
    with pytest.raises(kind) as caught:
        asyncio.run(_settled(RayTaskError("call", "traceback", make(kind)).as_instanceof_cause()))
    assert fields(caught.value) == fields(make(kind))
