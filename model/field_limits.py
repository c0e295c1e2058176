"""The values that a dataclass's fields may have, annotated beside them: `Annotated[int, Range(1, 9)]`."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple, get_type_hints

from model.errors import InputError


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises InputError unless a value is within a range."""
    if not low <= value <= high:  # also false for NaN
        raise InputError(f"{name} is {value}; it must be between {low} and {high}")


class Range(NamedTuple):
    """The least and the greatest value of a field, or of each entry of a list."""

    low: float
    high: float

    def check(self, name: str, value: Any) -> None:
        """Raises InputError unless the value is within the range."""
        check_range(name, value, self.low, self.high)

    def __str__(self) -> str:
        return " to ".join(f"{one:,}" if isinstance(one, int) else f"{one:g}" for one in self)


class Choices(NamedTuple):
    """The values that a field, or each entry of a list, may have."""

    names: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        """Raises InputError, with the nearest choice, unless the value is one of them."""
        if value not in self.names:
            near = difflib.get_close_matches(value, self.names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"{name} is {value!r}; it must be one of {self}{hint}")

    def __str__(self) -> str:
        return ", ".join(self.names)


def field_limits(cls: type[Any]) -> dict[str, Range | Choices]:
    """Returns the limits of a dataclass's fields, as annotated."""
    hints = get_type_hints(cls, include_extras=True).items()
    return {name: limit for name, hint in hints for limit in getattr(hint, "__metadata__", ())}


def check_fields(section: str, values: object) -> None:
    """Raises InputError, naming `section.field`, unless all fields are within their limits."""
    for name, limit in field_limits(type(values)).items():
        value = getattr(values, name)
        for one in value if isinstance(value, tuple) else (value,):
            limit.check(f"{section}.{name}", one)
