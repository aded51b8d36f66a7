"""A function is put among those that workers call when they start, and those that were there are kept."""

from __future__ import annotations

import cloudpickle
import pytest

from hubdist.errors import ConfigError
from hubdist.integrations.setup_hooks import with_setup_hook

CALLED: list[str] = []
ONE, TWO, THREE = (f"{__name__}.{name}" for name in ("one", "two", "three"))
KEY = "worker_process_setup_hook"


def one() -> None:
    CALLED.append("one")


def two() -> None:
    CALLED.append("two")


def three() -> None:
    CALLED.append("three")


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    CALLED.clear()


@pytest.mark.parametrize("given", [None, {}, {KEY: None}, {KEY: ONE}])
def test_alone_it_stays_a_name_which_a_submitted_job_needs(given: dict[str, str] | None) -> None:
    assert with_setup_hook(given, ONE) == {KEY: ONE}


def test_all_else_of_the_environment_is_kept_and_the_given_one_is_not_changed() -> None:
    given = {"env_vars": {"A": "b"}, KEY: TWO}
    made = with_setup_hook(given, ONE)
    assert made.keys() == given.keys()
    assert made["env_vars"] == {"A": "b"}
    assert given[KEY] == TWO


@pytest.mark.parametrize("there", [TWO, two])
def test_what_was_there_is_called_first(there: object) -> None:
    with_setup_hook({KEY: there}, ONE)[KEY]()
    assert CALLED == ["two", "one"]


def test_several_are_called_once_each_however_often_they_are_named() -> None:
    environment = with_setup_hook({KEY: THREE}, TWO)
    for name in (ONE, TWO, ONE, THREE):
        environment = with_setup_hook(environment, name)
    environment[KEY]()
    assert CALLED == ["three", "two", "one"]


def test_the_combined_function_travels_as_ray_sends_it() -> None:
    hook = with_setup_hook({KEY: TWO}, ONE)[KEY]
    assert hook.__name__ == "setup_hook"
    cloudpickle.loads(cloudpickle.dumps(hook))()
    assert CALLED == ["two", "one"]


@pytest.mark.parametrize("name", ["no_dots", f"{__name__}.nothing", f"{__name__}.CALLED"])
def test_a_name_that_is_no_function_is_named_in_the_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is not the name of a function"):
        with_setup_hook({KEY: name}, ONE)[KEY]()
