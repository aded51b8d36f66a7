"""The classes of deliveries and of the cluster are named with the words of the glossary, and with a few plain ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hubdist
from tests.support import REPOSITORY

PACKAGES = ("delivery", "cluster")

PLAIN = """
    access answer arrival arrived awaited blocking book choice client cluster connection context direct error
    evidence failed finish found goal group held incoming job joined judged lifetime link living log mark
    membership node open order part pending pool process progress read ready record refresh remembered request
    result role room run scope service set size stats status task terms time view waiting watch work
"""
"""Words that mean in a class name what they mean elsewhere. A word with a meaning of its own has a row in the table."""


def stem(word: str) -> str:
    """The same for a word's plural, participles and doer."""
    text = word.lower()
    shorter = re.sub(r"(.)\1$", r"\1", re.sub(r"(ies|es|s|ed|ing|er|e|y)$", "", text))
    return text if shorter == text else stem(shorter)


def glossary() -> set[str]:
    text = (REPOSITORY / "docs" / "concepts.md").read_text(encoding="utf-8")
    table = text.partition("## Words")[2].partition("\n## ")[0]
    named = re.findall(r"^\| ([^|]+) \|", table, flags=re.MULTILINE)
    return {word for cell in named[2:] for word in re.findall(r"[\w-]+", cell)}


def words(name: str) -> list[str]:
    return re.findall(r"[A-Z][a-z]+|[A-Z]+(?![a-z])", name)


CLASSES = sorted(
    {
        node.name
        for package in PACKAGES
        for path in (Path(hubdist.__file__).parent / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_named_with_known_words(name: str) -> None:
    known = {stem(word) for word in glossary() | set(PLAIN.split())}
    unknown = [word for word in words(name) if stem(word) not in known]
    assert not unknown, f"{name}: {unknown} are neither in the table of docs/concepts.md nor plain words"


def test_the_glossary_is_read() -> None:
    assert {"handle", "delivery", "rarest", "peer"} <= glossary()
    assert words("HTTPLostError") == ["HTTP", "Lost", "Error"]


@pytest.mark.parametrize("name", ["Board", "Matching", "HungryNodes", "EarlyDelivery"])
def test_a_metaphor_is_not_a_known_word(name: str) -> None:
    with pytest.raises(AssertionError, match="neither"):
        test_a_class_is_named_with_known_words(name)
