"""The docstrings of dataclass fields."""

from __future__ import annotations

import dataclasses

import pytest

from model.field_docs import field_docs


@dataclasses.dataclass
class Documented:
    """Has a docstring of its own, a method, and a field over two lines."""

    first: int = 1
    """The first
    of two."""
    second: str = ""
    """The second."""

    def method(self) -> None:
        """Not a field."""


@dataclasses.dataclass
class Bare:
    """One field says nothing."""

    first: int
    second: int
    """The second."""


def test_each_field_has_its_docstring_in_one_line() -> None:
    assert field_docs(Documented) == {"first": "The first of two.", "second": "The second."}
    assert list(field_docs(Documented)) == [one.name for one in dataclasses.fields(Documented)]


def test_a_field_without_one_is_named() -> None:
    with pytest.raises(ValueError, match=r"^Bare\.first has no docstring$"):
        field_docs(Bare)
