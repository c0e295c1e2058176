"""Names under which variables are saved: unique and complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model.errors import CharloomError


def join_named(*parts: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Merges several tables.

    Raises:
      CharloomError: a name occurs twice, so that one entry would be lost.
    """
    joined: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items() if isinstance(part, Mapping) else part:
            if name in joined:
                raise CharloomError(
                    f"two arrays of the model are called {name}, so only one of them would be "
                    "saved; report this as a bug of charloom"
                )
            joined[name] = value
    return joined


def name_variables(
    prefix: str, variables: Iterable[Any], values: Sequence[Any] | None = None
) -> dict[str, Any]:
    """Returns variables by the names under which they are saved, `prefix/path`.

    Args:
      prefix: first part of the names.
      variables: Keras variables.
      values: what is saved for each variable, in the same order, such as its slots.

    Raises:
      CharloomError: two variables have the same path.
    """
    listed = list(variables)
    found = [one.value for one in listed] if values is None else values
    return join_named(
        (f"{prefix}/{one.path}", value) for one, value in zip(listed, found, strict=True)
    )


def check_complete(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Checks that saved arrays match a model's: none missing, none extra, same shapes.

    Args:
      expected: the model's shapes, by name.
      found: the saved shapes, by name.

    Raises:
      ValueError: they differ; names the first such array, in a form that fits in brackets.
    """
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"array {name} is missing")
        if tuple(found[name]) != tuple(shape):
            raise ValueError(f"array {name} has shape {tuple(found[name])}, not {tuple(shape)}")
    for name in found:
        if name not in expected:
            raise ValueError(f"array {name} is unknown")


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array or variable."""
    return {name: tuple(one.shape) for name, one in arrays.items()}
