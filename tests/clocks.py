"""A clock that tests set."""

from __future__ import annotations


class Clock:
    """Stands in for the module `time`."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now
