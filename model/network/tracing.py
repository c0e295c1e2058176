"""Functions of batches as graphs that are traced once, for all numbers of distinct words."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_VARYING = ("words", "char_ids", "rows", "log_expected")
"""Inputs whose first axis differs from batch to batch."""


class TracedOnce:
    """Compiles a function without control flow of AutoGraph; traces it once per batch shape.

    `tf.function` traces three times before it settles: the first trace might have created
    variables, the second has the shapes of one batch, and only the third leaves an axis open.
    """

    def __init__(self, function: Callable[..., Any]):
        """Traces nothing yet; dicts among the positional arguments are of `batch_inputs`."""
        self._function = tf.function(function, autograph=False)
        self._graphs: dict[Any, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function; the first call with arguments of some shapes traces it."""
        shapes = tuple(_fixed_shapes(one) for one in args)
        if shapes not in self._graphs:
            self._graphs[shapes] = self._function.get_concrete_function(
                *(_open_axes(one) for one in args), **kwargs
            )
        return self._graphs[shapes](*args, **kwargs)


def traced_once(method: Callable[..., Any]) -> Any:
    """Makes a method a `TracedOnce` of each instance."""
    return functools.cached_property(lambda instance: TracedOnce(method.__get__(instance)))


def _fixed_shapes(value: Any) -> Any:
    """Returns the lengths of a value's axes, those aside that differ from batch to batch."""
    if isinstance(value, dict):
        return tuple((name, _shapes(one, first=name in _VARYING)) for name, one in value.items())
    return _shapes(value)


def _shapes(value: Any, *, first: int = 0) -> Any:
    flat = tf.nest.flatten(value, expand_composites=True)
    return (type(value), *(tuple(one.shape[first:]) for one in flat))


def _open_axes(value: Any) -> Any:
    """Returns the type of a value, the axes open that differ from batch to batch."""
    if not isinstance(value, dict):
        return value
    return {name: _open(one) if name in _VARYING else one for name, one in value.items()}


def _open(value: Any) -> Any:
    """Returns the type of a tensor, or of one a replica, with a first axis of any length."""
    shorter = tf.nest.map_structure(lambda one: one[:-1], value, expand_composites=True)
    types = [tf.type_spec_from_value(one) for one in (value, shorter)]
    return types[0].most_specific_common_supertype(types[1:])
