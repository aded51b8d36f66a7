"""Rates and sizes as people write them."""

from __future__ import annotations

import pytest

from hubdist.config.amounts import link_text, parse_link, parse_links, parse_size
from hubdist.config.schema import Config
from hubdist.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25Gbit/s", 25e9 / 8),
        ("100 Mbit/s", 100e6 / 8),
        ("100mbit/s".replace("m", "M"), 100e6 / 8),
        ("2.5 Gb/s", 2.5e9 / 8),
        ("10Gbps", 10e9 / 8),
        ("1GiB/s", float(1 << 30)),
        (" 3 GB / s ", 3e9),
        ("400 kbit/s", 50e3),
        ("8bit/s", 1.0),
        (125_000_000, 125e6),
    ],
)
def test_a_rate_is_read(text: object, rate: float) -> None:
    assert parse_link(text) == rate


@pytest.mark.parametrize(
    "text", ["", "fast", "25", "25Gbit", "25 mb/s", "0Gbit/s", "-1Gbit/s", 0, -1.0, True, None, "1e3MB/s"]
)
def test_what_is_no_rate_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ConfigError, match="25Gbit/s"):
        parse_link(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_rate_is_finite(value: float) -> None:
    with pytest.raises(ConfigError):
        parse_link(value)


def test_nodes_have_one_rate_or_each_its_own() -> None:
    assert parse_links("8Mbit/s", 3) == (1e6, 1e6, 1e6)
    assert parse_links(["8Mbit/s", 5], 2) == (1e6, 5.0)
    assert parse_links({"8Mbit/s": 2, "1MB/s": 1}, 3) == (1e6, 1e6, 1e6)


@pytest.mark.parametrize("value", [["8Mbit/s"], {"8Mbit/s": 2}, {"8Mbit/s": -1}, {"8Mbit/s": 1.5}, ["8Mbit/s", "x"]])
def test_rates_must_be_those_of_all_nodes(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_links(value, 3)  # type: ignore[arg-type]


def test_sizes() -> None:
    assert parse_size("2GiB") == 2 << 30
    assert parse_size(7) == 7
    for wrong in ("much", 0, "-1MB"):
        with pytest.raises(ConfigError, match="2GiB"):
            parse_size(wrong)


@pytest.mark.parametrize(("rate", "text"), [(25e9 / 8, "25 Gbit/s"), (12.5e6, "100 Mbit/s"), (1000.0, "8 kbit/s")])
def test_a_rate_is_written(rate: float, text: str) -> None:
    assert link_text(rate) == text


def test_the_setting_is_a_rate() -> None:
    assert Config().link is None
    assert Config(link="10Gbit/s").link == 1.25e9
    with pytest.raises(ConfigError, match="link"):
        Config(link="fast")
